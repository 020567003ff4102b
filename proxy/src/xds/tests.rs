//! The client against servers: a modelled one under random updates and cuts, and a real one over a socket.

mod model;
mod stream;
