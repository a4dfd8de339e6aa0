//! A host over ssh: the system's own client as a child process, which forwards the sockets of the engine and of the proxy.

mod child;
mod forwards;
mod refusal;

pub use child::Ssh;
pub use forwards::Forwards;
