//! WebSockets: passed through, and never cut without a close frame.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::harness::{LIMIT, Proxy, Wire};

/// One frame: opcode and payload.
pub(crate) async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<(u8, Vec<u8>)> {
    let first = stream.read_u8().await?;
    let second = stream.read_u8().await?;
    let length = match second & 0x7f {
        126 => u64::from(stream.read_u16().await?),
        127 => stream.read_u64().await?,
        short => u64::from(short),
    };
    let mut mask = [0; 4];
    if second & 0x80 != 0 {
        stream.read_exact(&mut mask).await?;
    }
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).await?;
    for (at, byte) in payload.iter_mut().enumerate() {
        *byte ^= mask[at % 4];
    }
    Ok((first & 0x0f, payload))
}

/// An unfragmented frame; a client masks (with zeros, which is a mask too).
pub(crate) fn frame(opcode: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    let mask = if masked { 0x80 } else { 0 };
    let mut frame = vec![0x80 | opcode];
    if payload.len() < 126 {
        frame.push(mask | payload.len() as u8);
    } else {
        frame.push(mask | 127);
        frame.extend((payload.len() as u64).to_be_bytes());
    }
    if masked {
        frame.extend([0; 4]);
    }
    frame.extend(payload);
    frame
}

/// Opens an upgraded connection.
pub(crate) async fn open(proxy: &Proxy, route: &str, protocol: &str) -> Wire {
    let mut wire = Wire::connect(proxy.addr).await;
    let head = "host: a\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: x";
    wire.send(format!("GET {route} HTTP/1.1\r\n{head}\r\nupgrade: {protocol}\r\n\r\n")).await;
    let (status, head) = wire.head().await.unwrap();
    assert_eq!(status, 101, "{head}");
    assert!(head.to_lowercase().contains(&format!("upgrade: {protocol}")), "{head}");
    wire
}

/// Sends a text and reads it back.
pub(crate) async fn echo(wire: &mut Wire, text: &str) {
    wire.send(frame(1, text.as_bytes(), true)).await;
    let (opcode, payload) = timeout(LIMIT, read_frame(&mut wire.stream)).await.unwrap().unwrap();
    assert_eq!((opcode, payload.as_slice()), (1, text.as_bytes()));
}

/// The server's side: echoes, or does what the route says.
pub(crate) async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, route: &str) {
    match route {
        // Not WebSocket: bytes come back as they are.
        "raw" => {
            let mut buffer = [0; 1024];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                let _ = stream.write_all(&buffer[..count]).await;
            }
        }
        // Dies without a word.
        "die" => {
            let _ = read_frame(&mut stream).await;
        }
        _ => {
            while let Ok((opcode, payload)) = read_frame(&mut stream).await {
                if stream.write_all(&frame(opcode, &payload, false)).await.is_err() || opcode == 8 {
                    return;
                }
            }
        }
    }
}

mod tests {
    use std::time::Duration;

    use cutover_proxy::{Arm, ServiceTable};
    use tokio::io::AsyncWriteExt;
    use tokio::time::timeout;

    use super::super::harness::{LIMIT, Proxy, SERVICE, table, track, until_seen};
    use super::super::upstream::Upstream;
    use super::{echo, frame, open, read_frame};

    async fn started() -> (Proxy, Upstream, ServiceTable) {
        let (proxy, upstream) = (Proxy::start().await, Upstream::start("v1").await);
        let service = table(vec![track("v1", 10_000, &[upstream.addr]), track("v2", 0, &[upstream.addr])]);
        proxy.set(0, &service).await;
        (proxy, upstream, service)
    }

    #[tokio::test]
    async fn frames_pass_both_ways_and_count_as_in_flight() {
        let (proxy, _upstream, _) = started().await;
        let mut wire = open(&proxy, "/ws", "websocket").await;
        for text in ["a", &"b".repeat(70_000)] {
            echo(&mut wire, text).await;
        }
        let seen = proxy.client.observe().await.unwrap();
        let revision = seen.services[SERVICE].revisions["v1"];
        assert_eq!((revision.in_flight, revision.websockets), (1, 1));
        wire.send(frame(8, &1000_u16.to_be_bytes(), true)).await;
        assert_eq!(read_frame(&mut wire.stream).await.unwrap().0, 8);
        assert!(wire.is_closed().await);
        until_seen(&proxy, "counted", |seen| seen.services[SERVICE].revisions["v1"].in_flight == 0).await;
        let counts = proxy.counts("v1", Arm::Stable).await;
        assert_eq!((counts.finished, counts.status[0], counts.websockets_closed), (1, 1, 0));
    }

    #[tokio::test]
    async fn a_shift_leaves_it_alone_and_a_drain_closes_it_with_a_frame() {
        let (proxy, _upstream, mut service) = started().await;
        let mut wires = Vec::new();
        for _ in 0..10 {
            wires.push(open(&proxy, "/ws", "websocket").await);
        }
        (service.tracks[0].weight_bp, service.tracks[1].weight_bp) = (0, 10_000);
        proxy.set(1, &service).await;
        for wire in &mut wires {
            echo(wire, "still here").await;
        }
        let clients: Vec<_> = wires
            .into_iter()
            .map(|mut wire| {
                tokio::spawn(async move {
                    let (opcode, payload) =
                        timeout(LIMIT, read_frame(&mut wire.stream)).await.unwrap().unwrap();
                    assert_eq!((opcode, &payload[..2]), (8, &1001_u16.to_be_bytes()[..]));
                    let at = std::time::Instant::now();
                    wire.send(frame(8, &payload[..2], true)).await;
                    assert!(wire.is_closed().await);
                    at
                })
            })
            .collect();
        let drained = proxy.client.drain(SERVICE, "v1", Duration::from_millis(800)).await.unwrap();
        assert_eq!((drained.clean, drained.cut, drained.websockets_closed), (true, 0, 10), "{drained:?}");
        let mut closed = Vec::new();
        for client in clients {
            closed.push(client.await.unwrap());
        }
        let (first, last) = (closed.iter().min().unwrap(), closed.iter().max().unwrap());
        assert!(*last - *first > Duration::from_millis(100), "spread: {:?}", *last - *first);
    }

    #[tokio::test]
    async fn a_frame_under_way_ends_before_the_close_frame() {
        let proxy = Proxy::start().await;
        // Sends half a frame, then the rest when asked.
        let addr = super::super::upstream::scripted(|mut stream, _| async move {
            use tokio::io::AsyncWriteExt;
            let _ = super::super::upstream::read_request(&mut stream).await;
            let head =
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
            super::super::upstream::write(&mut stream, head).await;
            let long = frame(2, &[7; 50_000], false);
            stream.write_all(&long[..30_000]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(600)).await;
            stream.write_all(&long[30_000..]).await.unwrap();
            // Keeps talking: nothing of it may follow the close frame.
            while stream.write_all(&frame(1, b"more", false)).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        let mut service = table(vec![track("v1", 10_000, &[addr]), track("v2", 0, &[addr])]);
        proxy.set(0, &service).await;
        let mut wire = open(&proxy, "/ws", "websocket").await;
        (service.tracks[0].weight_bp, service.tracks[1].weight_bp) = (0, 10_000);
        proxy.set(1, &service).await;
        let client = proxy.client.clone();
        let drain =
            tokio::spawn(async move { client.drain(SERVICE, "v1", Duration::from_millis(100)).await });
        assert_eq!(timeout(LIMIT, read_frame(&mut wire.stream)).await.unwrap().unwrap().1.len(), 50_000);
        assert_eq!(read_frame(&mut wire.stream).await.unwrap().0, 8);
        assert!(wire.is_closed().await);
        let drained = drain.await.unwrap().unwrap();
        assert_eq!((drained.cut, drained.websockets_closed), (0, 1), "{drained:?}");
    }

    #[tokio::test]
    async fn a_target_that_dies_does_not_cut_its_clients_without_a_frame() {
        let (proxy, _upstream, _) = started().await;
        let mut wire = open(&proxy, "/die", "websocket").await;
        wire.send(frame(1, b"x", true)).await;
        let (opcode, payload) = timeout(LIMIT, read_frame(&mut wire.stream)).await.unwrap().unwrap();
        assert_eq!((opcode, &payload[..2]), (8, &1012_u16.to_be_bytes()[..]));
    }

    #[tokio::test]
    async fn other_protocols_pass_and_are_cut_at_the_deadline() {
        let (proxy, _upstream, mut service) = started().await;
        let mut wire = open(&proxy, "/raw", "chat").await;
        wire.send("hello\r\n").await;
        assert_eq!(wire.line().await.unwrap(), "hello");
        (service.tracks[0].weight_bp, service.tracks[1].weight_bp) = (0, 10_000);
        proxy.set(1, &service).await;
        let drained = proxy.client.drain(SERVICE, "v1", Duration::from_millis(100)).await.unwrap();
        assert_eq!((drained.clean, drained.cut, drained.left), (false, 1, 0), "{drained:?}");
        assert!(wire.is_closed().await);
    }

    /// A frame that its client does not read cannot be followed by a close frame.
    #[tokio::test]
    async fn a_client_that_reads_nothing_is_cut_at_the_deadline_and_no_later() {
        let (proxy, _upstream, mut service) = started().await;
        let mut deaf = open(&proxy, "/ws", "websocket").await;
        let mut alive = open(&proxy, "/ws", "websocket").await;
        // Its own echoes, until nothing more goes either way.
        let text = frame(1, &[b'x'; 60_000], true);
        let blocked = Duration::from_millis(500);
        while timeout(blocked, deaf.stream.get_mut().write_all(&text)).await.is_ok_and(|sent| sent.is_ok()) {}
        echo(&mut alive, "still here").await;
        (service.tracks[0].weight_bp, service.tracks[1].weight_bp) = (0, 10_000);
        proxy.set(1, &service).await;
        let drained = proxy.client.drain(SERVICE, "v1", Duration::from_millis(3_000)).await.unwrap();
        assert_eq!((drained.websockets_closed, drained.cut, drained.left), (1, 1, 0), "{drained:?}");
    }
}
