//! Sending policy: windows outside of which jobs wait, and caps beyond which they are suppressed.

mod caps;
mod windows;
