//! Clients of WebSockets: they live for a while, are echoed to, and end by a close frame.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::http::{chain, judge};
use super::report::{Answer, Kind, Trouble};
use super::shared::Shared;
use super::wire::{self, Speaks, Stream};
use crate::service::VERSION_HEADER;

/// Messages in the life of a WebSocket.
const MESSAGES: u32 = 20;

enum Opened {
    Socket(Box<WebSocketStream<Box<dyn Stream>>>, Answer),
    /// By an error that the service intends.
    Refused(Answer),
}

/// One client.
pub(crate) struct WebSocketClient {
    shared: Arc<Shared>,
    number: usize,
    turn: u32,
}

impl WebSocketClient {
    pub(crate) fn new(shared: Arc<Shared>, number: usize) -> Self {
        Self { shared, number, turn: 0 }
    }

    /// Connects again and again until the load is over.
    pub(crate) async fn run(mut self) {
        while let Some(begun) = self.shared.begin(Kind::WebSocket) {
            let outcome = self.live().await;
            self.shared.end(begun, outcome).await;
        }
    }

    async fn live(&mut self) -> Result<Answer, Trouble> {
        self.turn += 1;
        let whole = self.shared.options.websocket_life;
        let life = if (self.number as u32 + self.turn).is_multiple_of(4) { whole } else { whole / 10 };
        let limit = self.shared.options.limit;
        let within = |what: &str| format!("WebSocket: {what} took longer than {limit:?}");
        let opened = timeout(limit, self.connect()).await.map_err(|_| within("the handshake"))??;
        let (mut socket, answer) = match opened {
            Opened::Socket(socket, answer) => (*socket, answer),
            Opened::Refused(answer) => return Ok(answer),
        };
        let end = Instant::now() + life;
        let mut sent = 0_u32;
        while Instant::now() < end {
            let text = format!("{}-{}-{sent}", self.number, self.turn);
            sent += 1;
            if let Err(error) = socket.send(Message::text(text.as_str())).await {
                // The close frame that explains it may be waiting to be read.
                return match timeout(limit, socket.next()).await {
                    Ok(Some(Ok(Message::Close(frame)))) => self.closed(socket, frame).await.map(|()| answer),
                    _ => Err(format!("WebSocket: failed to send: {}", chain(&error)).into()),
                };
            }
            match timeout(limit, next(&mut socket)).await.map_err(|_| within("an echo"))?? {
                Message::Text(back) if back.as_str() == text => {
                    self.shared.note(|report| report.messages += 1)
                }
                Message::Close(frame) => return self.closed(socket, frame).await.map(|()| answer),
                other => return Err(format!("WebSocket: {other:?} came back instead of {text:?}").into()),
            }
            // A close frame may come while nothing is asked.
            match timeout(life / MESSAGES, next(&mut socket)).await {
                Err(_) => {}
                Ok(Ok(Message::Close(frame))) => return self.closed(socket, frame).await.map(|()| answer),
                Ok(Ok(other)) => return Err(format!("WebSocket: {other:?} came unasked").into()),
                Ok(Err(trouble)) => return Err(trouble),
            }
        }
        let goodbye = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        let asked = socket.close(Some(goodbye)).await;
        match timeout(limit, next(&mut socket)).await.map_err(|_| within("the closing handshake"))? {
            Ok(Message::Close(frame)) => {
                // Both sides may have said it at the same time.
                if let Some(frame) = frame
                    && frame.code != CloseCode::Normal
                {
                    self.count_close(frame.code.into())?;
                }
                Ok(answer)
            }
            Ok(other) => Err(format!("WebSocket: {other:?} came after our close frame").into()),
            Err(trouble) => Err(match asked {
                Err(error) => format!("WebSocket: failed to close: {}", chain(&error)).into(),
                Ok(()) => trouble,
            }),
        }
    }

    async fn connect(&self) -> Result<Opened, Trouble> {
        let failed =
            |error: &dyn std::error::Error| format!("WebSocket: failed to connect: {}", chain(error));
        let stream = wire::connect(&self.shared.options, Speaks::Http1).await;
        let stream = stream.map_err(|text| format!("WebSocket: {text}"))?;
        let request = self.handshake().map_err(|error| failed(&error))?;
        match client_async(request, stream).await {
            Ok((socket, response)) => {
                let version =
                    response.headers().get(VERSION_HEADER).and_then(|version| version.to_str().ok());
                let version = version.ok_or_else(|| "WebSocket: not answered by the service".to_owned())?;
                Ok(Opened::Socket(
                    Box::new(socket),
                    Answer { version: version.to_owned(), intended_error: false },
                ))
            }
            Err(Error::Http(response)) => judge(&response).map(Opened::Refused),
            Err(error) => Err(failed(&error).into()),
        }
    }

    fn handshake(&self) -> Result<Request, Error> {
        format!("ws://{}/ws", self.shared.options.host).into_client_request()
    }

    /// Answers a close frame of the other side.
    async fn closed(
        &self,
        mut socket: WebSocketStream<Box<dyn Stream>>,
        frame: Option<CloseFrame>,
    ) -> Result<(), Trouble> {
        // Reading on sends the answer; whether the other side still reads it is its own business.
        let _ = timeout(Duration::from_secs(2), socket.next()).await;
        self.count_close(frame.map_or(1005, |frame| frame.code.into()))
    }

    fn count_close(&self, code: u16) -> Result<(), Trouble> {
        self.shared.note(|report| *report.closed.entry(code).or_default() += 1);
        match code {
            1001 | 1012 => Ok(()),
            code => Err(format!("WebSocket: closed by the other side with code {code}").into()),
        }
    }
}

async fn next(socket: &mut WebSocketStream<Box<dyn Stream>>) -> Result<Message, Trouble> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(message)) => return Ok(message),
            Some(Err(error)) => {
                return Err(format!("WebSocket: cut without a close frame: {}", chain(&error)).into());
            }
            None => return Err("WebSocket: cut without a close frame".to_owned().into()),
        }
    }
}
