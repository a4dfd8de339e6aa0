//! The little of protocol buffers that BuildKit's messages need: fields written one after the other, and read in any order.

/// A message that is being written.
#[derive(Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    /// Adds a number; zero is what a missing one is read as.
    pub(super) fn number(mut self, field: u32, value: u64) -> Self {
        if value != 0 {
            self.varint(u64::from(field) << 3);
            self.varint(value);
        }
        self
    }

    /// Adds text, bytes or another message; empty is what a missing one is read as.
    pub(super) fn bytes(self, field: u32, value: &[u8]) -> Self {
        if value.is_empty() { self } else { self.present(field, value) }
    }

    /// Adds another message, also an empty one.
    pub(super) fn present(mut self, field: u32, value: &[u8]) -> Self {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    pub(super) fn done(self) -> Vec<u8> {
        self.0
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    pub(super) fn number(self) -> u64 {
        match self {
            Value::Number(number) => number,
            Value::Bytes(_) => 0,
        }
    }

    pub(super) fn bytes(self) -> &'a [u8] {
        match self {
            Value::Number(_) => &[],
            Value::Bytes(bytes) => bytes,
        }
    }

    pub(super) fn text(self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }
}

/// Reads the fields of a message one after the other. None in place of a field: it is broken from there.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u32, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u32, Value<'a>)> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => Value::Bytes(self.take(8)?),
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(usize::try_from(length).ok()?)?)
            }
            5 => Value::Bytes(self.take(4)?),
            _ => return None,
        };
        Some((u32::try_from(key >> 3).ok()?, value))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let inner = Message::default().bytes(1, b"a/b").number(2, 1 << 31 | 0o755).done();
        let message = Message::default().number(1, 0).present(2, &inner).number(3, 300).bytes(4, &[]).done();
        let fields: Option<Vec<_>> = Fields(&message).collect();
        assert_eq!(fields.unwrap(), [(2, Value::Bytes(&inner)), (3, Value::Number(300))]);
        assert_eq!(message[message.len() - 3..], [3 << 3, 0xac, 0x02]);
        let inner: Option<Vec<_>> = Fields(&inner).collect();
        assert_eq!(inner.unwrap()[1].1.number(), 1 << 31 | 0o755);
    }

    #[test]
    fn a_broken_message_ends_at_its_break() {
        for broken in [&[0x0a, 5, 1][..], &[0xff], &[0x0b], &[0x80; 12]] {
            assert_eq!(Fields(broken).last(), Some(None), "{broken:?}");
        }
        // Fields of a fixed width are skipped by their width.
        assert_eq!(Fields(&[0x0d, 1, 2, 3, 4, 0x10, 7]).last(), Some(Some((2, Value::Number(7)))));
    }
}
