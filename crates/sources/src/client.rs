//! One GET over HTTP or HTTPS. A connection of its own each time: questions are seldom, and a kept one may be dead.

use std::path::PathBuf;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::source::AskError;
use crate::tls;

/// No answer with one number is longer.
const MOST: usize = 4 << 20;

/// Asks with the same header fields each time.
pub(crate) struct Client {
    headers: Vec<(HeaderName, HeaderValue)>,
    roots: Option<PathBuf>,
}

/// An answer that came whole.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
    /// Where it sends us, if it does.
    pub(crate) location: Option<String>,
}

impl Client {
    /// Takes header fields; values of secrets are never shown.
    pub(crate) fn new(headers: &[(String, String)], roots: Option<PathBuf>) -> Result<Client, AskError> {
        let read = |(name, value): &(String, String)| {
            let wrong = |part: &str| {
                AskError::wrong(
                    format!("the {part} of the header field `{name}` cannot be sent"),
                    "a value is one line of text; look at the variable that holds it",
                )
            };
            let field = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong("name"))?;
            let mut value = HeaderValue::from_str(value).map_err(|_| wrong("value"))?;
            value.set_sensitive(true);
            Ok((field, value))
        };
        Ok(Client { headers: headers.iter().map(read).collect::<Result<_, _>>()?, roots })
    }

    /// Asks for `url`. Errors name it without its query, which may hold secrets.
    pub(crate) async fn get(&self, url: &str) -> Result<Answer, AskError> {
        let shown = url.split('?').next().unwrap_or_default();
        let wrong =
            |why: &str| AskError::wrong(format!("{shown} cannot be asked: {why}"), "look at the address");
        let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| wrong(&error.to_string()))?;
        let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let secure = uri.scheme_str() == Some("https");
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::get(path)
            .header(HOST, authority.as_str())
            .header(USER_AGENT, "cutover")
            .header(ACCEPT, "application/json")
            .header(CONNECTION, "close");
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(Empty::new()).map_err(|error| wrong(&error.to_string()))?;
        let down = |why: String| AskError::down(format!("{shown} does not answer: {why}"));
        let stream = TcpStream::connect((host.as_str(), port))
            .await
            .map_err(|error| down(lower(&error.to_string())))?;
        if !secure {
            return exchange(stream, request).await.map_err(down);
        }
        let name = ServerName::try_from(host).map_err(|error| wrong(&error.to_string()))?;
        let roots = self.roots.clone().or_else(tls::bundle);
        let tls = tls::connector(roots.as_deref())?;
        let stream = tls.connect(name, stream).await.map_err(|error| down(lower(&error.to_string())))?;
        exchange(stream, request).await.map_err(down)
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Empty<Bytes>>,
) -> Result<Answer, String> {
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let asked = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let location = response.headers().get(LOCATION).and_then(|to| to.to_str().ok()).map(str::to_owned);
        let body = Limited::new(response.into_body(), MOST).collect().await;
        let body = body.map_err(|error| format!("its answer broke off or is too long ({error})"))?.to_bytes();
        Ok(Answer { status, body, location })
    };
    // The connection is driven beside the exchange and ends with it; nothing is left running when this is dropped.
    let drive = async {
        let _ = connection.await;
        std::future::pending::<Result<Answer, String>>().await
    };
    tokio::select! {
        biased;
        answer = asked => answer,
        answer = drive => answer,
    }
}

fn lower(text: &str) -> String {
    let text = text.replace("(os error ", "(errno ");
    let mut letters = text.chars();
    letters.next().map(|letter| letter.to_ascii_lowercase()).into_iter().chain(letters).collect()
}
