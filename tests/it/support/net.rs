//! Which loopback port is free?

use std::{
    net::TcpListener,
    sync::atomic::{AtomicU16, Ordering},
};

/// The range: below the one from which the kernel takes ports of outgoing connections (32768 and up on Linux), so that
/// no client takes the port before its server listens.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// A loopback port that nobody listens on, and that this process hands out once. Processes begin at different places,
/// by their ids.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id().wrapping_mul(97) % u32::from(COUNT);
    for _ in 0..COUNT {
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = FIRST + u16::try_from((start + step) % u32::from(COUNT)).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free loopback port");
}
