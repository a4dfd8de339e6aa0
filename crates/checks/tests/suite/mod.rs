//! One module per kind of check, and what they share.

mod command;
mod harness;
mod load;
mod network;
mod servers;
mod smoke;
