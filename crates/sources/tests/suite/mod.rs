mod faults;
mod harness;
mod prometheus;
