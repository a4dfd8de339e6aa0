mod closed;
mod harness;
mod nginx;
mod open;
mod sides;
mod trouble;
