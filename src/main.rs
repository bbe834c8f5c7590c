//! The binary: everything is in the library's [`im_dispatcher::cli`].

use std::process::ExitCode;

/// The hot path allocates and frees small buffers on many threads, which is where mimalloc is ahead of glibc.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    im_dispatcher::cli::main()
}
