//! The ports of a development ArqonBus, and who holds a port that is taken.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use arqon_spine::ports::free_port;
use clap::Args;

use crate::failure::{Failure, Result};

/// How many Brains one development ArqonBus may run.
pub(crate) const MAX_BRAINS: usize = 3;

/// Where the parts listen, on 127.0.0.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ports {
    /// The NATS server.
    pub(crate) nats: u16,
    /// Shield's public listener.
    pub(crate) shield: u16,
    /// Shield's admin listener.
    pub(crate) admin: u16,
    /// The Brains' listeners, as many as there may be.
    pub(crate) brains: [u16; MAX_BRAINS],
    /// The NATS server's monitoring endpoint.
    pub(crate) monitor: u16,
}

/// Ports as they can be asked for.
#[derive(Debug, Clone, Copy, Default, Args)]
#[command(next_help_heading = "Ports")]
pub(crate) struct PortOptions {
    /// Take N, N+1, N+2 and so on for NATS, Shield, admin, three Brains and NATS's monitoring;
    /// 0 takes any free ones
    #[arg(long, value_name = "N")]
    pub(crate) port_base: Option<u16>,
    /// The NATS server's port [default: 4222]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) nats_port: Option<u16>,
    /// Shield's port for clients [default: 8080]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) shield_port: Option<u16>,
    /// Shield's port for metrics and status [default: 8081]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) admin_port: Option<u16>,
    /// The first Brain's port for health and metrics; the others follow [default: 8082]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) brain_port: Option<u16>,
    /// The port of the NATS server's monitoring endpoint [default: 8222]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) monitor_port: Option<u16>,
}

impl Ports {
    /// The listeners, by name.
    fn named(self, brains: usize) -> impl Iterator<Item = (&'static str, u16)> {
        let fixed = [
            ("NATS", self.nats),
            ("Shield", self.shield),
            ("Shield's admin listener", self.admin),
            ("NATS's monitoring", self.monitor),
        ];
        let brains = self.brains.into_iter().take(brains);
        fixed.into_iter().chain(brains.map(|port| ("Brain", port)))
    }

    /// Fails on a port that is taken, with its holder's name.
    pub(crate) fn check_free(self, brains: usize) -> Result {
        for (name, port) in self.named(brains) {
            let Err(error) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) else {
                continue;
            };
            let failure = if error.kind() == std::io::ErrorKind::AddrInUse {
                let by = holder(port)
                    .map_or_else(|| "another process".to_owned(), |holder| holder.to_string());
                Failure::new(format!("port {port} for {name} is taken by {by}"))
            } else {
                Failure::new(format!("port {port} for {name} cannot be opened: {error}"))
            };
            return Err(failure.hint(format!(
                "stop that process, or choose other ports: `arq dev up --port-base {}` (0 takes any free ones)",
                if port < 14_000 { 14_222 } else { 24_222 }
            )));
        }
        Ok(())
    }
}

impl PortOptions {
    /// The ports asked for over those in force.
    pub(crate) fn over(self, current: Ports) -> Result<Ports> {
        let base = match self.port_base {
            None => current,
            Some(0) => free_ports()?,
            Some(base) => {
                let next = |by: u16| {
                    base.checked_add(by).ok_or_else(|| {
                        Failure::usage(format!("--port-base {base} leaves no room for all ports"))
                    })
                };
                Ports {
                    nats: base,
                    shield: next(1)?,
                    admin: next(2)?,
                    brains: [next(3)?, next(4)?, next(5)?],
                    monitor: next(6)?,
                }
            }
        };
        let brains = match self.brain_port {
            None => base.brains,
            Some(first) => [0, 1, 2].map(|by| first.saturating_add(by)),
        };
        let ports = Ports {
            nats: self.nats_port.unwrap_or(base.nats),
            shield: self.shield_port.unwrap_or(base.shield),
            admin: self.admin_port.unwrap_or(base.admin),
            brains,
            monitor: self.monitor_port.unwrap_or(base.monitor),
        };
        let mut seen = HashSet::new();
        if !ports.named(MAX_BRAINS).all(|(_, port)| seen.insert(port)) {
            return Err(Failure::usage("the ports must differ"));
        }
        Ok(ports)
    }
}

/// Ports that are free now, and promised to nobody else.
fn free_ports() -> Result<Ports> {
    Ok(Ports {
        nats: free_port()?,
        shield: free_port()?,
        admin: free_port()?,
        brains: [free_port()?, free_port()?, free_port()?],
        monitor: free_port()?,
    })
}

/// A process that holds a port.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    /// Its id.
    pub(crate) pid: u32,
    /// Its program's name.
    pub(crate) program: String,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (pid {})", self.program, self.pid)
    }
}

/// Who listens on a port, as far as /proc shows it to this user.
pub(crate) fn holder(port: u16) -> Option<Holder> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| std::fs::read_to_string(table).ok())
        .find_map(|table| listening_inode(&table, port))?;
    let wanted = format!("socket:[{inode}]");
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let Ok(files) = std::fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        let holds = files
            .flatten()
            .filter_map(|file| std::fs::read_link(file.path()).ok())
            .any(|target| target.to_str() == Some(&wanted));
        if holds {
            let program = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(Holder {
                pid,
                program: program.trim().to_owned(),
            });
        }
    }
    None
}

/// The socket that listens on a port, from a table of the form of /proc/net/tcp.
fn listening_inode(table: &str, port: u16) -> Option<u64> {
    const LISTEN: &str = "0A";
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (_, local_port) = fields.next()?.rsplit_once(':')?;
        let state = fields.nth(1)?;
        let inode = fields.nth(5)?;
        (state == LISTEN && u16::from_str_radix(local_port, 16) == Ok(port))
            .then(|| inode.parse().ok())?
    })
}

/// The port of a URL such as `ws://127.0.0.1:8080/v1/socket`.
pub(crate) fn port_of(url: &str) -> Option<u16> {
    address_of(url).map(|address| address.port())
}

/// The address of a URL whose host is an IP address or `localhost`.
pub(crate) fn address_of(url: &str) -> Option<SocketAddr> {
    let authority = url
        .split_once("://")
        .map_or(url, |(_, rest)| rest)
        .split('/')
        .next()?;
    authority.replace("localhost", "127.0.0.1").parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_holder_of_a_port_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let holder = holder(port).unwrap();
        assert_eq!(holder.pid, std::process::id());
        assert!(!holder.program.is_empty());
        let ports = Ports {
            nats: port,
            shield: 1,
            admin: 2,
            brains: [3, 4, 5],
            monitor: 6,
        };
        let failure = ports.check_free(0).unwrap_err();
        assert!(
            failure
                .message
                .contains(&format!("port {port} for NATS is taken by ")),
            "{}",
            failure.message
        );
        assert!(failure.message.contains(&std::process::id().to_string()));
        assert!(failure.hint.unwrap().contains("--port-base"));
    }

    #[test]
    fn ports_are_chosen_by_base_and_by_name() {
        let now = Ports {
            nats: 4222,
            shield: 8080,
            admin: 8081,
            brains: [8082, 8083, 8084],
            monitor: 8222,
        };
        let none = PortOptions::default();
        assert_eq!(none.over(now).unwrap(), now);
        let based = PortOptions {
            port_base: Some(14_000),
            ..none
        };
        assert_eq!(
            based.over(now).unwrap(),
            Ports {
                nats: 14_000,
                shield: 14_001,
                admin: 14_002,
                brains: [14_003, 14_004, 14_005],
                monitor: 14_006,
            }
        );
        let one = PortOptions {
            shield_port: Some(9_000),
            ..none
        };
        assert_eq!(
            one.over(now).unwrap(),
            Ports {
                shield: 9_000,
                ..now
            }
        );
        let brains = PortOptions {
            brain_port: Some(9_000),
            ..none
        };
        assert_eq!(brains.over(now).unwrap().brains, [9_000, 9_001, 9_002]);
        assert!(
            PortOptions {
                brain_port: Some(8_080),
                ..none
            }
            .over(now)
            .is_err()
        );
        assert!(
            PortOptions {
                nats_port: Some(8_080),
                ..none
            }
            .over(now)
            .is_err()
        );
        assert!(
            PortOptions {
                port_base: Some(65_535),
                ..none
            }
            .over(now)
            .is_err()
        );
        assert!(
            PortOptions {
                port_base: Some(0),
                ..none
            }
            .over(now)
            .is_ok()
        );
    }

    #[test]
    fn urls_give_their_port() {
        assert_eq!(port_of("ws://127.0.0.1:8080/v1/socket"), Some(8080));
        assert_eq!(port_of("nats://localhost:4222"), Some(4222));
        assert_eq!(port_of("wss://bus.example/v1/socket"), None);
    }
}
