//! CloudWatch's wire form: against a small server that does what CloudWatch does, and against moto.

mod suite;
