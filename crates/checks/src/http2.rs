//! The same GET in HTTP/2, with prior knowledge.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use cutover_core::{Fault, file};
use http::{Request, Uri, header};
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::http::{broken, judge};
use crate::tries::{Miss, Try};

/// Tasks of a connection, which end with whoever holds them.
type Tasks = Mutex<JoinSet<()>>;

/// Starts the tasks of a connection. It does not hold them: they hold it.
#[derive(Clone)]
struct Spawner(Weak<Tasks>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Spawner {
    fn execute(&self, task: F) {
        // Whoever asked is gone otherwise.
        if let Some(tasks) = self.0.upgrade() {
            tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
        }
    }
}

/// Asks over `stream` and compares the answer with what is expected.
pub(crate) async fn get(stream: TcpStream, mut request: Request<Empty<Bytes>>, expect: &file::Expect) -> Try {
    let tasks = Arc::new(Tasks::default());
    let spawner = Spawner(Arc::downgrade(&tasks));
    let (mut sender, connection) =
        http2::handshake(spawner, TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    let headers = request.headers_mut();
    headers.remove(header::CONNECTION);
    let host = headers.remove(header::HOST);
    let authority = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let path = request.uri().to_string();
    let uri = Uri::builder().scheme("http").authority(authority).path_and_query(&*path).build();
    *request.uri_mut() = uri.map_err(|error| {
        Miss::CannotRun(Fault::configuration(format!("ask GET {path} of host {authority}: {error}")))
    })?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        judge(response, expect).await
    };
    let drive = async {
        let _ = connection.await;
        std::future::pending::<Try>().await
    };
    tokio::select! {
        biased;
        outcome = exchange => outcome,
        outcome = drive => outcome,
    }
}
