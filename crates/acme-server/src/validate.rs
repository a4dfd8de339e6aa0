//! HTTP-01 (RFC 8555, 8.3): really fetched, by a name that only this server resolves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::book::Status;
use crate::problem::Problem;
use crate::{Behaviour, Shared};

const PATIENCE: Duration = Duration::from_secs(10);

/// Looks at one challenge of an order, and moves the order on.
pub(crate) async fn look_at(shared: Arc<Shared>, id: usize, at: usize, thumbprint: String) {
    lag(&shared, |behaviour| behaviour.validation_lag).await;
    let Some((host, token)) = shared.book().orders.iter().find(|order| order.id == id).map(|order| {
        let proof = &order.proofs[at];
        (proof.host.clone(), proof.token.clone())
    }) else {
        return;
    };
    let address = shared.behaviour().names.get(&host).copied();
    let found = match address {
        Some(address) => fetch(address, &host, &token).await,
        None => Err(Problem::new(400, "dns", format!("DNS problem: NXDOMAIN looking up A for {host}"))),
    };
    let expected = format!("{token}.{thumbprint}");
    let found = found.and_then(|body| match body.trim_end() == expected {
        true => Ok(()),
        false => Err(Problem::new(403, "unauthorized", format!("{host} answers something else"))),
    });
    let mut book = shared.book();
    book.seen.looked += 1;
    let Some(order) = book.orders.iter_mut().find(|order| order.id == id) else { return };
    let proof = &mut order.proofs[at];
    (proof.status, proof.problem) = match found {
        Ok(()) => (Status::Valid, None),
        Err(problem) => (Status::Invalid, Some(problem)),
    };
    if order.proofs.iter().any(|proof| proof.status == Status::Invalid) {
        order.status = Status::Invalid;
    } else if order.proofs.iter().all(|proof| proof.status == Status::Valid) {
        order.status = Status::Ready;
    }
}

/// Waits as long as it is told to, also when it is told otherwise meanwhile.
pub(crate) async fn lag(shared: &Shared, how_long: impl Fn(&Behaviour) -> Duration) {
    let begun = Instant::now();
    while begun.elapsed() < how_long(&shared.behaviour()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Fetches the answer. Redirects are not followed, which the RFC leaves to the authority: what redirects fails.
async fn fetch(address: SocketAddr, host: &str, token: &str) -> Result<String, Problem> {
    let failed = |what: String| Problem::new(400, "connection", format!("{address}: {what}"));
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!(
            "GET /.well-known/acme-challenge/{token} HTTP/1.1\r\nhost: {host}\r\nuser-agent: test authority\r\n\
             accept: */*\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = match timeout(PATIENCE, exchange).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(_) => return Err(failed("no answer in time".into())),
    };
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        let text =
            format!("Invalid response from http://{host}/.well-known/acme-challenge/{token}: {status}");
        return Err(Problem::new(403, "unauthorized", text));
    }
    Ok(body.to_owned())
}
