//! Lines for a syslog daemon, in the forms of Go's `log/syslog`, which nats-server uses.
//!
//! Owns the connection: opened again once when a write fails. A line that cannot be sent is lost: a daemon that
//! does not read must not hold the broker up.

use std::io::{self, Write};
use std::net::{TcpStream, ToSocketAddrs, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Duration;
use tracing::Level;

/// Where daemons of this machine listen.
const LOCAL_SOCKETS: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];
/// The facility of daemons, as it stands in a priority of this machine's. Elsewhere nats-server states none.
pub const DAEMON: u8 = 3 << 3;
/// How long a stream may take a line.
const WRITE_TIME_MAX: Duration = Duration::from_millis(100);
/// How long a connection may take to open.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(1);

/// A connection to a syslog daemon.
pub struct Syslog {
    /// `udp://host:port`, `tcp://host:port` or `unix:///path`; nothing for this machine's daemon.
    address: Option<String>,
    connection: Box<dyn Write + Send>,
}

impl Syslog {
    /// Connects.
    ///
    /// # Errors
    /// The address cannot be read or reached, or this machine has no daemon.
    pub fn open(address: Option<&str>) -> io::Result<Syslog> {
        let connection = match address {
            Some(address) => connect(address)?,
            None => local()?,
        };
        Ok(Syslog { address: address.map(str::to_owned), connection })
    }

    /// Sends a line.
    ///
    /// # Errors
    /// It could not be sent, nor over a new connection.
    pub fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.connection.write_all(line).is_ok() {
            return Ok(());
        }
        *self = Syslog::open(self.address.as_deref())?;
        self.connection.write_all(line)
    }
}

/// The severity of a line; traces count as notices, like what is always logged.
pub fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO | Level::TRACE => 5,
        Level::DEBUG => 7,
    }
}

/// The name of this machine.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::fs::read_to_string("/etc/hostname"));
    name.map(|name| name.trim().to_owned())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".into())
}

struct Datagrams<F>(F);

impl<F: Fn(&[u8]) -> io::Result<usize>> Write for Datagrams<F> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        (self.0)(line)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn local() -> io::Result<Box<dyn Write + Send>> {
    for path in LOCAL_SOCKETS {
        if let Ok(connection) = connect_unix(path) {
            return Ok(connection);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("no syslog daemon listens on any of {LOCAL_SOCKETS:?}"),
    ))
}

fn connect_unix(path: &str) -> io::Result<Box<dyn Write + Send>> {
    let socket = UnixDatagram::unbound()?;
    if socket.connect(path).is_ok() {
        socket.set_nonblocking(true)?;
        return Ok(Box::new(Datagrams(move |line: &[u8]| socket.send(line))));
    }
    let stream = UnixStream::connect(path)?;
    stream.set_write_timeout(Some(WRITE_TIME_MAX))?;
    Ok(Box::new(stream))
}

fn connect(address: &str) -> io::Result<Box<dyn Write + Send>> {
    let wrong = || {
        let text = format!(
            "{address:?} is no syslog address: write udp://host:port, tcp://host:port or unix:///path"
        );
        io::Error::new(io::ErrorKind::InvalidInput, text)
    };
    let (scheme, rest) = address.split_once("://").ok_or_else(wrong)?;
    match scheme {
        "unix" => connect_unix(rest),
        "udp" => {
            let peer = rest.to_socket_addrs()?.next().ok_or_else(wrong)?;
            let socket = UdpSocket::bind(if peer.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
            socket.connect(peer)?;
            socket.set_nonblocking(true)?;
            Ok(Box::new(Datagrams(move |line: &[u8]| socket.send(line))))
        }
        "tcp" => {
            let peer = rest.to_socket_addrs()?.next().ok_or_else(wrong)?;
            let stream = TcpStream::connect_timeout(&peer, CONNECT_TIME_MAX)?;
            stream.set_write_timeout(Some(WRITE_TIME_MAX))?;
            Ok(Box::new(stream))
        }
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_reach_a_daemon_by_udp_and_by_a_socket_of_this_machine() {
        let daemon = UdpSocket::bind("127.0.0.1:0").unwrap();
        daemon.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let address = format!("udp://{}", daemon.local_addr().unwrap());
        Syslog::open(Some(&address)).unwrap().write(b"<29>hello\n").unwrap();
        let mut buffer = [0; 64];
        let count = daemon.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"<29>hello\n");
        let path = std::env::temp_dir().join(format!("starling-syslog-{}", std::process::id()));
        let daemon = UnixDatagram::bind(&path).unwrap();
        let mut log = Syslog::open(Some(&format!("unix://{}", path.display()))).unwrap();
        log.write(b"<29>here\n").unwrap();
        let count = daemon.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"<29>here\n");
        // a daemon that starts anew is found again
        drop(daemon);
        std::fs::remove_file(&path).unwrap();
        let daemon = UnixDatagram::bind(&path).unwrap();
        log.write(b"<29>again\n").unwrap();
        let count = daemon.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"<29>again\n");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn an_address_that_is_none_is_refused_with_the_forms_there_are() {
        for address in ["localhost:514", "ftp://localhost:514"] {
            let error = Syslog::open(Some(address)).err().unwrap().to_string();
            assert!(error.contains("udp://host:port"), "{error}");
        }
    }
}
