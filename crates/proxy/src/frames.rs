//! Follows the frames of a WebSocket as they pass, to know where one ends (RFC 6455, 5.2).

/// Opcode of a close frame.
const CLOSE: u8 = 8;

/// Position in a stream of frames.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    head: [u8; 14],
    have: usize,
    /// Bytes of the payload still to come.
    left: u64,
    closing: bool,
    closed: bool,
}

impl Frames {
    /// Tells whether the next byte begins a frame.
    pub(crate) fn at_boundary(&self) -> bool {
        self.have == 0 && self.left == 0
    }

    /// Tells whether a whole close frame has passed.
    pub(crate) fn closed(&self) -> bool {
        self.closed
    }

    /// Follows bytes up to the end, or up to the first boundary when `stop` is set; returns how many were taken.
    pub(crate) fn follow(&mut self, bytes: &[u8], stop: bool) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            if stop && self.at_boundary() {
                break;
            }
            if self.left > 0 {
                let step = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - at);
                at += step;
                self.left -= step as u64;
            } else {
                self.head[self.have] = bytes[at];
                self.have += 1;
                at += 1;
                if self.have < head_length(&self.head, self.have) {
                    continue;
                }
                self.left = payload_length(&self.head);
                self.closing = self.head[0] & 0x0f == CLOSE;
                self.have = 0;
            }
            if self.at_boundary() && self.closing {
                self.closed = true;
                self.closing = false;
            }
        }
        at
    }
}

/// Returns the length of the head as far as it is known.
fn head_length(head: &[u8; 14], have: usize) -> usize {
    if have < 2 {
        return 2;
    }
    let extended = match head[1] & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    2 + extended + if head[1] & 0x80 == 0 { 0 } else { 4 }
}

fn payload_length(head: &[u8; 14]) -> u64 {
    match head[1] & 0x7f {
        126 => u64::from(u16::from_be_bytes([head[2], head[3]])),
        127 => head[2..10].iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
        short => u64::from(short),
    }
}

/// Returns an unmasked close frame as a server sends it.
pub(crate) fn close_frame(code: u16, why: &str) -> Vec<u8> {
    let why = &why.as_bytes()[..why.len().min(100)];
    let mut frame = vec![0x80 | CLOSE, 2 + why.len() as u8];
    frame.extend_from_slice(&code.to_be_bytes());
    frame.extend_from_slice(why);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(opcode: u8, length: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x80 | opcode];
        match length {
            0..126 => frame.push(mask | length as u8),
            126..65536 => {
                frame.push(mask | 126);
                frame.extend_from_slice(&(length as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        frame.extend(std::iter::repeat_n(0x88, length + if masked { 4 } else { 0 }));
        frame
    }

    #[test]
    fn boundaries_are_found_however_the_bytes_are_cut() {
        for masked in [false, true] {
            let frames =
                [frame(1, 5, masked), frame(2, 300, masked), frame(2, 70_000, masked), frame(8, 2, masked)];
            let bytes = frames.concat();
            for step in [1, 2, 3, 7, 1_000, bytes.len()] {
                let mut follower = Frames::default();
                let mut ends = Vec::new();
                let mut at = 0;
                while at < bytes.len() {
                    let chunk = &bytes[at..bytes.len().min(at + step)];
                    let mut used = 0;
                    while used < chunk.len() {
                        if follower.at_boundary() {
                            used += follower.follow(&chunk[used..=used], false);
                        }
                        used += follower.follow(&chunk[used..], true);
                        if follower.at_boundary() {
                            ends.push(at + used);
                        }
                    }
                    at += chunk.len();
                }
                let wanted: Vec<usize> = (1..=4).map(|n| frames[..n].iter().map(Vec::len).sum()).collect();
                assert_eq!(ends, wanted, "step {step}");
                assert!(follower.closed());
            }
        }
    }

    #[test]
    fn an_empty_frame_ends_with_its_head() {
        let mut follower = Frames::default();
        assert_eq!(follower.follow(&[0x89, 0x00], false), 2);
        assert!(follower.at_boundary() && !follower.closed());
        follower.follow(&close_frame(1001, "x"), false);
        assert!(follower.closed());
    }
}
