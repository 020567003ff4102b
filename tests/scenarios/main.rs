//! Scenarios over real processes. Each is its topology, what is done, and what must be seen.

mod admin; // what the admin page says of what happened
mod authorization; // who may do what: RBAC from any control plane (I4, I5)
mod authority; // the certificate authority and its rotation by command
mod config; // what an edit does, and what it must not do
mod demo; // `sidegate demo`
mod drain; // ending in order
mod external_authorization; // another service decides about each request
mod exhaustion; // what is used up, and what must be left (battery d)
mod forwarded; // who asks, who may steer, what is made of a request's names
mod faults; // what happens to the process (battery h)
mod grpc_web; // what browsers can say of gRPC
mod hardening; // the battery of docs/hardening.md, row by row
mod http2; // HTTP/2 by raw frames: floods, heads, windows, upstreams (B)
mod identity; // the own certificate: got, renewed, over, served to others (C10)
mod interop; // the same scenario, served by Envoy
mod listeners; // filter chains, listener filters, who speaks first
mod jwt; // tokens: whose, by which keys, and when there are none (I6, G8)
mod limits; // rate limits, circuit breakers, timeouts
mod mesh; // app to app, through a sidecar on either side
mod pools; // stale connections, retries, exactly once (D8, D9)
mod protocols; // HTTP/1.1 and HTTP/2 on either side, opaque TCP, explicit proxy
mod routing; // which route, and what it changes
mod tcp; // opaque connections and how they end
mod timeouts; // every bound of time, on either side of a response's head
mod upgrades; // WebSocket, CONNECT and other tunnels over either version
mod soak; // a mixed load, faults, and what is left afterwards
mod start; // what ends before it serves, and what it says
mod tls; // termination, origination, certificates that change
