//! The closed loop: clients that wait for their answers.

use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinSet;

use crate::course::Course;

/// Lets `count` clients send one request after the other until the time is over; returns when all are answered.
pub(crate) async fn run(course: &Rc<Course>, count: usize, pause: Option<Duration>) {
    match pause {
        None => endless(course, count).await,
        Some(pause) => in_batches(course, count, pause).await,
    }
}

async fn endless(course: &Rc<Course>, count: usize) {
    let mut clients = JoinSet::new();
    for _ in 0..count {
        let course = course.clone();
        clients.spawn_local(async move {
            let mut client = course.client();
            let mut now = course.now();
            while now < course.spec.span {
                course.send(&mut client, now).await;
                now = course.now();
            }
        });
    }
    while clients.join_next().await.is_some() {}
}

async fn in_batches(course: &Rc<Course>, count: usize, pause: Duration) {
    let mut clients: Vec<_> = (0..count).map(|_| course.client()).collect();
    while course.now() < course.spec.span {
        let now = course.now();
        join_all(clients.iter_mut().map(|client| course.send(client, now))).await;
        // No batch comes after the last one.
        if course.now() + pause >= course.spec.span {
            return;
        }
        tokio::time::sleep(pause).await;
    }
}
