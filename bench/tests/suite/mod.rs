mod accounting;
mod harness;
mod secure;
