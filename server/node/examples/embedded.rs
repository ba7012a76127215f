//! The broker inside another program: start it, use it, stop it.
//!
//! `cargo run -p starling-server --example embedded`

use config::Settings;
use config::address::Port;
use node::Server;

#[allow(clippy::print_stdout)]
fn main() -> Result<(), node::StartError> {
    let settings = Settings { host: "127.0.0.1".into(), port: Port::Random, ..Settings::default() };
    let server = Server::start(settings)?;
    println!("clients connect to {}", server.client_url());
    println!("{} connections so far", server.monitor().varz().total_connections);
    server.stop();
    server.wait();
    Ok(())
}
