//! Tests of the proxy as processes, over real sockets. Run with `cargo test -p cutover-proxy`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod suite {
    mod access;
    #[cfg(feature = "acme")]
    mod acme;
    #[cfg(feature = "acme")]
    mod acme_faults;
    #[cfg(feature = "acme")]
    mod acme_harness;
    #[cfg(feature = "acme")]
    mod acme_workers;
    mod assets;
    mod balance;
    mod boot;
    mod clients;
    mod compat;
    mod control;
    mod counting;
    mod curl;
    mod descriptors;
    mod drain;
    mod h2_client;
    mod h2_target;
    mod harness;
    mod health;
    mod http;
    mod http2;
    mod judging;
    mod knocking;
    mod limits;
    mod load;
    mod malformed;
    mod metrics;
    mod moments;
    mod passing;
    mod processes;
    mod retain;
    mod retry;
    mod routing;
    mod targets;
    mod tls;
    mod tls_client;
    mod upstream;
    mod waiting;
    mod websocket;
}
