//! Sends the files of a context: first what there is, then the bytes of those that the engine asks for.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use hyper::http::HeaderMap;
use tokio::sync::mpsc;

use super::context::{Context, Entry, Kind, changed};
use super::proto::{Fields, Message};
use super::session::{Answer, Questions, Status, tell};

/// The kinds of packets.
const STAT: u64 = 0;
const REQUEST: u64 = 1;
const DATA: u64 = 2;
const END: u64 = 3;
const ERROR: u64 = 4;

/// How much of a file is sent at once: it is all that is in memory of it.
const CHUNK: usize = 32 << 10;

/// Bits of a mode as Go writes them.
const GO_FOLDER: u32 = 1 << 31;
const GO_LINK: u32 = 1 << 27;
const GO_SETUID: u32 = 1 << 23;
const GO_SETGID: u32 = 1 << 22;
const GO_STICKY: u32 = 1 << 20;

/// Sends the folder that the engine names in the headers of its question.
pub(super) async fn send(
    context: Arc<Context>,
    headers: &HeaderMap,
    questions: Questions,
    to: &mut Answer,
) -> Result<(), Status> {
    let said = |name: &str| headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let folder: Vec<&str> = said("dir-name").collect();
    let wanted: Vec<&str> = said("followpaths").collect();
    let sent = match folder[..] {
        ["dockerfile"] => Sent::Dockerfile,
        // What it ignores is left out already.
        ["context"] if wanted == [".dockerignore"] => Sent::Nothing,
        ["context"] => Sent::Context,
        _ => return Err(Status::internal(format!("there is no folder {}", folder.join(" ")))),
    };
    Transfer { context, sent }.run(questions, to).await
}

enum Sent {
    /// The Dockerfile alone, under the name that the build has for it.
    Dockerfile,
    Nothing,
    Context,
}

struct Transfer {
    context: Arc<Context>,
    sent: Sent,
}

impl Transfer {
    async fn run(&self, mut questions: Questions, to: &mut Answer) -> Result<(), Status> {
        let stats = self.stats();
        // There are at most as many requests as files: the engine never waits for us to read while we wait for it to.
        let (ask, mut asked) = mpsc::channel(stats.len() + 1);
        let sending = async move {
            for stat in &stats {
                tell(to, &Message::default().number(1, STAT).present(2, stat).done()).await?;
            }
            tell(to, &Message::default().number(1, STAT).done()).await?;
            while let Some(id) = asked.recv().await {
                self.send_file(id, to).await?;
            }
            tell(to, &Message::default().number(1, END).done()).await
        };
        let hearing = async move {
            while let Some(packet) = questions.next().await? {
                let (kind, id, said) = read(&packet);
                match kind {
                    REQUEST => ask.try_send(id).map_err(|_| Status::internal("more requests than files"))?,
                    // Nothing more is asked for; what was is sent before we say the same.
                    END => return Ok(()),
                    ERROR => return Err(Status::internal(said)),
                    _ => return Err(Status::internal(format!("a packet of kind {kind}"))),
                }
            }
            Err(Status::internal("the build broke off"))
        };
        tokio::try_join!(sending, hearing).map(|_| ())
    }

    fn stats(&self) -> Vec<Vec<u8>> {
        match self.sent {
            Sent::Nothing => Vec::new(),
            Sent::Context => self.context.entries.iter().map(stat).collect(),
            Sent::Dockerfile => {
                let bytes = self.context.dockerfile.len() as u64;
                let kind = Kind::File { bytes };
                vec![stat(&Entry { path: "Dockerfile".into(), mode: 0o644, modified_ns: 0, kind })]
            }
        }
    }

    async fn send_file(&self, id: u32, to: &mut Answer) -> Result<(), Status> {
        let index = id as usize;
        match self.sent {
            Sent::Dockerfile if index == 0 => {
                for chunk in self.context.dockerfile.chunks(CHUNK) {
                    tell(to, &data(id, chunk)).await?;
                }
            }
            Sent::Context => self.send_from_disk(id, self.context.entries.get(index), to).await?,
            _ => return Err(Status::internal(format!("there is no file {id}"))),
        }
        tell(to, &data(id, &[])).await
    }

    async fn send_from_disk(&self, id: u32, entry: Option<&Entry>, to: &mut Answer) -> Result<(), Status> {
        let Some(Entry { path, kind: Kind::File { bytes }, .. }) = entry else {
            return Err(Status::internal(format!("there is no file {id}")));
        };
        let full = self.context.root.join(path);
        let mut left = *bytes;
        let (give, mut given) = mpsc::channel::<Vec<u8>>(4);
        let name = full.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let mut file = File::open(&name)?;
            loop {
                let mut chunk = vec![0; CHUNK];
                let read = file.read(&mut chunk)?;
                chunk.truncate(read);
                // Nobody takes it any more: the build is over.
                if read == 0 || give.blocking_send(chunk).is_err() {
                    return Ok::<(), std::io::Error>(());
                }
            }
        });
        while let Some(chunk) = given.recv().await {
            left =
                left.checked_sub(chunk.len() as u64).ok_or_else(|| Status::internal(changed(&full).what))?;
            tell(to, &data(id, &chunk)).await?;
        }
        let read = reading.await.map_err(|error| Status::internal(error.to_string()))?;
        read.map_err(|error| Status::internal(format!("read {}: {error}", full.display())))?;
        if left > 0 {
            return Err(Status::internal(changed(&full).what));
        }
        Ok(())
    }
}

fn data(id: u32, bytes: &[u8]) -> Vec<u8> {
    Message::default().number(1, DATA).number(3, id.into()).bytes(4, bytes).done()
}

/// Says what a file is. Whose it is stays here: in the image it is root's, as with Docker's own client.
fn stat(entry: &Entry) -> Vec<u8> {
    let bits = [(0o4000, GO_SETUID), (0o2000, GO_SETGID), (0o1000, GO_STICKY)];
    let special = bits.iter().filter(|(bit, _)| entry.mode & bit != 0).fold(0, |mode, (_, go)| mode | go);
    let (kind, size, link) = match &entry.kind {
        Kind::Folder => (GO_FOLDER, 0, ""),
        Kind::File { bytes } => (0, *bytes, ""),
        Kind::Link { to } => (GO_LINK, to.len() as u64, to.as_str()),
    };
    Message::default()
        .bytes(1, entry.path.as_bytes())
        .number(2, u64::from(entry.mode & 0o777 | special | kind))
        .number(5, size)
        .number(6, entry.modified_ns as u64)
        .bytes(7, link.as_bytes())
        .done()
}

fn read(packet: &[u8]) -> (u64, u32, String) {
    let (mut kind, mut id, mut said) = (STAT, 0, String::new());
    for (field, value) in Fields(packet).flatten() {
        match field {
            1 => kind = value.number(),
            3 => id = value.number() as u32,
            4 => said = value.text(),
            _ => {}
        }
    }
    (kind, id, said)
}
