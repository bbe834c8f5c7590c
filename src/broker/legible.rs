//! Bytes from the broker, made readable: lapin gives a connection up over a short string that is no UTF-8, wherever it
//! stands, and the message with it is delivered again, and again.
//!
//! AMQP's short strings (a `message_id`, a header's name, a routing key) are any bytes to RabbitMQ. Here each byte that
//! breaks UTF-8 becomes [`SUBSTITUTE`], so frames keep their length, and whoever reads the message can tell. Properties
//! that can't be walked at all, and those that are longer than a frame of this connection, are replaced as a whole by a `type`
//! that says so. Knows frames; what they are for, it doesn't.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::io::{AsyncRead, AsyncWrite};

/// ASCII's SUBSTITUTE, which exists to stand for a character that could not be shown.
pub(super) const SUBSTITUTE: u8 = 0x1a;

/// Type (1), channel (2) and size (4) of a frame, before its payload; its end (1) is behind it (AMQP 0-9-1, 2.3.5).
const FRAME_HEAD: usize = 7;
const FRAME_END: u8 = 0xce;
const METHOD: u8 = 1;
const CONTENT_HEADER: u8 = 2;
/// Frames of more are given on as they are.
const MOST_FRAME: usize = 16 << 20;
/// Read from the connection at a time.
const CHUNK: usize = 64 << 10;
/// Tables and arrays in each other at most: lapin's parser recurses, and each level costs five bytes only.
const DEEPEST: u32 = 32;

/// A connection whose frames are made readable.
#[derive(Debug)]
pub(super) struct Legible<S> {
    inner: S,
    frames: Frames,
}

impl<S> Legible<S> {
    /// `frame_max` is what this side allows a frame, its head and end included. RabbitMQ cuts bodies to it, and properties,
    /// which can't be cut, it sends as their producer could.
    pub(super) fn new(inner: S, frame_max: u32) -> Self {
        Self {
            inner,
            frames: Frames::of_at_most(frame_max),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Legible<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        let Self { inner, frames } = self.get_mut();
        loop {
            let given = frames.give(out);
            if given > 0 || out.is_empty() {
                return Poll::Ready(Ok(given));
            }
            let read = ready!(Pin::new(&mut *inner).poll_read(cx, frames.room()))?;
            if read == 0 {
                return Poll::Ready(Ok(0));
            }
            frames.received(read);
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Legible<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_close(cx)
    }
}

/// What has been read and not given on yet.
#[derive(Debug)]
struct Frames {
    /// Longer than what it holds: `..end` has been received, `..ready` can be given on, `..given` has been.
    buffer: Vec<u8>,
    given: usize,
    ready: usize,
    end: usize,
    /// Bytes that still belong to a frame which is given on as it is.
    pass: usize,
    /// What a frame may have.
    largest: usize,
}

impl Frames {
    /// 0: of any size.
    fn of_at_most(frame_max: u32) -> Self {
        Self {
            buffer: Vec::new(),
            given: 0,
            ready: 0,
            end: 0,
            pass: 0,
            largest: if frame_max == 0 { usize::MAX } else { frame_max as usize },
        }
    }

    /// Gives on what is ready.
    fn give(&mut self, out: &mut [u8]) -> usize {
        let n = out.len().min(self.ready - self.given);
        out[..n].copy_from_slice(&self.buffer[self.given..self.given + n]);
        self.given += n;
        n
    }

    /// Room for what comes next; everything ready has been given on.
    fn room(&mut self) -> &mut [u8] {
        self.buffer.copy_within(self.given..self.end, 0);
        self.end -= self.given;
        self.ready -= self.given;
        self.given = 0;
        if self.buffer.len() < self.end + CHUNK / 2 {
            self.buffer.resize(self.end + CHUNK, 0);
        }
        &mut self.buffer[self.end..]
    }

    fn received(&mut self, n: usize) {
        self.end += n;
        loop {
            let open = self.end - self.ready;
            if self.pass > 0 {
                let n = self.pass.min(open);
                self.ready += n;
                self.pass -= n;
                if self.pass > 0 {
                    return;
                }
                continue;
            }
            if open < FRAME_HEAD {
                return;
            }
            let (kind, size) = head(&self.buffer[self.ready..]);
            // A broker of another protocol answers with its name, which is no frame.
            if !matches!(kind, METHOD | CONTENT_HEADER) || size > MOST_FRAME {
                self.pass = if kind == b'A' {
                    usize::MAX
                } else {
                    FRAME_HEAD + size + 1
                };
                continue;
            }
            let whole = FRAME_HEAD + size + 1;
            if open < whole {
                return;
            }
            self.mend(kind, size);
        }
    }

    /// Makes the frame at `ready` readable, and ready.
    fn mend(&mut self, kind: u8, size: usize) {
        let begin = self.ready + FRAME_HEAD;
        let payload = &mut self.buffer[begin..begin + size];
        let mut length = size;
        if kind == METHOD {
            mend_method(payload);
        } else if FRAME_HEAD + size + 1 > self.largest || mend_content_header(payload).is_none() {
            length = blank(payload);
        }
        if length < size {
            self.buffer[begin - 4..begin].copy_from_slice(&(length as u32).to_be_bytes());
            self.buffer.copy_within(begin + size..self.end, begin + length);
            self.end -= size - length;
        }
        self.ready = begin + length + 1;
        debug_assert!(self.buffer[self.ready - 1] == FRAME_END || self.ready <= self.end);
    }
}

/// Type and payload size of a frame.
fn head(frame: &[u8]) -> (u8, usize) {
    let size = u32::from_be_bytes([frame[3], frame[4], frame[5], frame[6]]);
    (frame[0], size as usize)
}

/// Methods that tell something in others' words: what they were asked to do, where a message went, why they close.
fn mend_method(payload: &mut [u8]) {
    let mut at = Walk { bytes: payload, at: 0 };
    let (Some(class), Some(method)) = (at.u16(), at.u16()) else {
        return;
    };
    // What doesn't fit is the parser's to refuse.
    let _: Option<()> = (|| match (class, method) {
        // basic.deliver: consumer tag, delivery tag, redelivered, exchange, routing key
        (60, 60) => {
            at.short()?;
            at.skip(9)?;
            at.short()?;
            at.short()
        }
        // basic.get-ok: delivery tag, redelivered, exchange, routing key
        (60, 71) => {
            at.skip(9)?;
            at.short()?;
            at.short()
        }
        // basic.return: code, text, exchange, routing key
        (60, 50) => {
            at.skip(2)?;
            at.short()?;
            at.short()?;
            at.short()
        }
        // channel.close, connection.close: code, text
        (20, 40) | (10, 50) => {
            at.skip(2)?;
            at.short()
        }
        _ => Some(()),
    })();
}

/// Mends the properties of a message; `None` if they can't be walked to their end.
fn mend_content_header(payload: &mut [u8]) -> Option<()> {
    let mut at = Walk { bytes: payload, at: 0 };
    // Class, weight, body size.
    at.skip(12)?;
    let flags = at.u16()?;
    // In the order of the flags, from the highest bit: s short string, t table, 1 and 8 bytes.
    let properties = [
        b's', b's', b't', b'1', b'1', b's', b's', b's', b's', b'8', b's', b's', b's', b's',
    ];
    for (n, kind) in properties.into_iter().enumerate() {
        if flags & (0x8000 >> n) == 0 {
            continue;
        }
        match kind {
            b's' => at.short()?,
            b't' => at.table(DEEPEST)?,
            b'1' => at.skip(1)?,
            _ => at.skip(8)?,
        }
    }
    // The two last bits would announce more flags, of which there are none.
    (flags.trailing_zeros() >= 2 && at.at == at.bytes.len()).then_some(())
}

/// Replaces a message's properties by a `type` that is one SUBSTITUTE; returns the payload's new length.
fn blank(payload: &mut [u8]) -> usize {
    const TYPE: [u8; 4] = [0x00, 0x20, 1, SUBSTITUTE];
    if payload.len() < 12 + TYPE.len() {
        // Too short to be a content header at all: the parser's to refuse.
        return payload.len();
    }
    payload[12..12 + TYPE.len()].copy_from_slice(&TYPE);
    12 + TYPE.len()
}

/// Walks over AMQP's types, and mends short strings on the way. `None`: what is there doesn't fit.
struct Walk<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Walk<'_> {
    fn skip(&mut self, n: usize) -> Option<()> {
        let to = self.at.checked_add(n).filter(|to| *to <= self.bytes.len())?;
        self.at = to;
        Some(())
    }

    fn u8(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from(self.u8()?) << 8 | u16::from(self.u8()?))
    }

    fn u32(&mut self) -> Option<usize> {
        Some(usize::from(self.u16()?) << 16 | usize::from(self.u16()?))
    }

    fn short(&mut self) -> Option<()> {
        let length = usize::from(self.u8()?);
        let begin = self.at;
        self.skip(length)?;
        substitute(&mut self.bytes[begin..begin + length]);
        Some(())
    }

    fn table(&mut self, deep: u32) -> Option<()> {
        let end = self.end_of_nested()?;
        while self.at < end {
            self.short()?;
            self.value(deep)?;
        }
        (self.at == end).then_some(())
    }

    fn array(&mut self, deep: u32) -> Option<()> {
        let end = self.end_of_nested()?;
        while self.at < end {
            self.value(deep)?;
        }
        (self.at == end).then_some(())
    }

    fn end_of_nested(&mut self) -> Option<usize> {
        let length = self.u32()?;
        self.at.checked_add(length).filter(|end| *end <= self.bytes.len())
    }

    /// A field's value, by the type letters that RabbitMQ and lapin know.
    fn value(&mut self, deep: u32) -> Option<()> {
        match self.u8()? {
            b'V' => Some(()),
            b't' | b'b' | b'B' => self.skip(1),
            b's' | b'U' | b'u' => self.skip(2),
            b'I' | b'i' | b'f' => self.skip(4),
            b'D' => self.skip(5),
            b'L' | b'l' | b'd' | b'T' => self.skip(8),
            b'S' | b'x' => {
                let end = self.end_of_nested()?;
                self.at = end;
                Some(())
            }
            b'A' => self.array(deep.checked_sub(1)?),
            b'F' => self.table(deep.checked_sub(1)?),
            _ => None,
        }
    }
}

/// Replaces each byte that breaks UTF-8.
fn substitute(mut bytes: &mut [u8]) {
    while let Err(error) = std::str::from_utf8(bytes) {
        let (begin, broken) = (error.valid_up_to(), error.error_len());
        let end = broken.map_or(bytes.len(), |n| begin + n);
        bytes[begin..end].fill(SUBSTITUTE);
        bytes = &mut bytes[end..];
    }
}

#[cfg(test)]
mod tests {
    use futures::io::AsyncReadExt as _;
    use lapin::protocol::basic::parse_properties;
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![kind, 0, 1];
        frame.extend((payload.len() as u32).to_be_bytes());
        frame.extend(payload);
        frame.push(FRAME_END);
        frame
    }

    /// A content header of a body of no bytes.
    fn content(properties: &[u8]) -> Vec<u8> {
        let mut payload = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        payload.extend(properties);
        frame(CONTENT_HEADER, &payload)
    }

    /// What comes out if the bytes arrive in pieces of this size.
    fn through(bytes: &[u8], piece: usize) -> Vec<u8> {
        let mut frames = Frames::of_at_most(1 << 10);
        let (mut out, mut some) = (Vec::new(), [0; 7]);
        for piece in bytes.chunks(piece) {
            frames.room()[..piece.len()].copy_from_slice(piece);
            frames.received(piece.len());
            loop {
                let n = frames.give(&mut some);
                if n == 0 {
                    break;
                }
                out.extend(&some[..n]);
            }
        }
        out
    }

    #[test]
    fn bytes_that_are_no_utf8_are_substituted_in_short_strings_and_nowhere_else() {
        // message_id, and one header whose name and long string both aren't UTF-8.
        let mut properties = vec![0x20, 0x80, 0, 0, 0, 12, 3];
        properties.extend(b"n\xffm");
        properties.extend([b'S', 0, 0, 0, 3]);
        properties.extend(b"\xff\xfe!");
        properties[5] = (properties.len() - 6) as u8;
        properties.extend([4]);
        properties.extend(b"caf\xe9");
        let sent = content(&properties);
        for piece in [1, 2, 7, 8, 1_000] {
            let got = through(&sent, piece);
            assert_eq!(got.len(), sent.len());
            let (rest, parsed) = parse_properties(&got[FRAME_HEAD + 12..got.len() - 1]).unwrap();
            assert!(rest.is_empty());
            assert_eq!(parsed.message_id().as_ref().unwrap().as_str(), "caf\u{1a}");
            let headers = parsed.headers().as_ref().unwrap().inner();
            assert_eq!(headers["n\u{1a}m"].as_long_string().unwrap().as_bytes(), b"\xff\xfe!");
        }
    }

    #[test]
    fn what_is_readable_comes_out_as_it_went_in() {
        let mut sent = frame(
            METHOD,
            &[
                0, 60, 0, 60, 1, b't', 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, b'x', 3, b'k', 0xc3, 0xa9,
            ],
        );
        sent.extend(content(&[0x00, 0x80, 3, b'i', 0xc3, 0xa9]));
        sent.extend(frame(3, &vec![0xff; 200_000]));
        sent.extend(frame(8, &[]));
        sent.extend(content(&[0, 0]));
        for piece in [1, 13, 4_096, 30_000] {
            assert!(through(&sent, piece) == sent, "in pieces of {piece}");
        }
        assert_eq!(
            through(b"AMQP\x00\x01\x00\x00 and more", 3),
            b"AMQP\x00\x01\x00\x00 and more"
        );
    }

    #[test]
    fn a_routing_key_that_is_no_utf8_is_substituted() {
        let sent = frame(
            METHOD,
            &[
                0, 60, 0, 71, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, b'x', 2, b'k', 0xe9, 0, 0, 0, 0,
            ],
        );
        let got = through(&sent, 5);
        assert_eq!(got[FRAME_HEAD + 17], SUBSTITUTE);
    }

    #[test]
    fn tables_in_tables_in_tables_can_not_exhaust_the_stack() {
        let mut value = vec![b'V'];
        for _ in 0..20_000 {
            let mut outer = vec![b'A'];
            outer.extend((value.len() as u32).to_be_bytes());
            outer.extend(&value);
            value = outer;
        }
        let mut properties = vec![0x20, 0x00];
        properties.extend((value.len() as u32 + 2).to_be_bytes());
        properties.extend([1, b'h']);
        properties.extend(value);
        let mut sent = content(&properties);
        sent.extend(frame(8, &[]));
        let got = through(&sent, 999);
        let (rest, parsed) = parse_properties(&got[FRAME_HEAD + 12..got.len() - 9]).unwrap();
        assert!(rest.is_empty());
        assert_eq!(parsed.kind().as_ref().unwrap().as_str(), "\u{1a}");
        assert_eq!(&got[got.len() - 8..], frame(8, &[]), "the next frame follows");
    }

    #[test]
    fn properties_that_no_frame_of_this_connection_holds_are_replaced() {
        let of = |length: usize| {
            // One header, a long string.
            let mut table = vec![1, b'x', b'S'];
            table.extend((length as u32).to_be_bytes());
            table.extend(vec![b'a'; length]);
            let mut properties = vec![0x20, 0];
            properties.extend((table.len() as u32).to_be_bytes());
            properties.extend(table);
            content(&properties)
        };
        let fits = of((1 << 10) - content(&[0, 0]).len() - 11);
        assert_eq!(fits.len(), 1 << 10);
        assert_eq!(through(&fits, 100), fits);
        let longer = of((1 << 10) - content(&[0, 0]).len() - 10);
        let mut sent = longer;
        sent.extend(frame(8, &[]));
        for piece in [1, 100, 10_000] {
            let got = through(&sent, piece);
            let (kind, size) = head(&got);
            assert_eq!(kind, CONTENT_HEADER);
            let (rest, parsed) = parse_properties(&got[FRAME_HEAD + 12..FRAME_HEAD + size]).unwrap();
            assert!(rest.is_empty());
            assert_eq!(parsed.kind().as_ref().unwrap().as_str(), "\u{1a}");
            assert_eq!(&got[got.len() - 8..], frame(8, &[]), "the next frame follows");
        }
    }

    #[tokio::test]
    async fn a_stream_ends_where_its_bytes_end() {
        let sent = content(&[0, 0]);
        let mut stream = Legible::new(futures::io::Cursor::new(sent.clone()), 0);
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, sent);
    }

    proptest! {
        /// Whatever stands in a content header, lapin's parser takes it to its end.
        #[test]
        fn every_content_header_can_be_parsed_afterwards(
            mut properties in prop::collection::vec(any::<u8>(), 2..200),
            flags in prop::sample::select(vec![0x0080_u16, 0x2000, 0x2080, 0xfffc, 0x8000, 0x0c40, 0x0001]),
            piece in 1..64_usize,
        ) {
            properties[..2].copy_from_slice(&flags.to_be_bytes());
            let mut sent = content(&properties);
            if sent.len() < FRAME_HEAD + 17 { sent = content(&[0, 0]); }
            let got = through(&sent, piece);
            let (kind, size) = head(&got);
            prop_assert_eq!((kind, got.len()), (CONTENT_HEADER, FRAME_HEAD + size + 1));
            let parsed = parse_properties(&got[FRAME_HEAD + 12..got.len() - 1]);
            prop_assert!(matches!(&parsed, Ok((rest, _)) if rest.is_empty()), "{:?}", parsed);
        }

        /// Whatever else comes, its length is kept, and nothing is held back but the beginning of a frame.
        #[test]
        fn any_frames_come_out_whole(
            payloads in prop::collection::vec((prop::sample::select(vec![1_u8, 3, 8]), prop::collection::vec(any::<u8>(), 0..80)), 0..8),
            piece in 1..64_usize,
        ) {
            let sent: Vec<u8> = payloads.iter().flat_map(|(kind, payload)| frame(*kind, payload)).collect();
            prop_assert_eq!(through(&sent, piece).len(), sent.len());
        }
    }
}
