mod accounting;
mod harness;
