mod alarms;
mod counters;
mod faults;
mod moto;
mod server;
mod setting;
mod values;
mod wire;
