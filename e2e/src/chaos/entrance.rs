//! The address that clients outside of the cluster know: of no server, as a load balancer's is. Pods
//! get new addresses with every roll, and libraries that read the list of servers only once would
//! otherwise know none that is left.
//!
//! It also sees to fairness: a connection goes to the server that has the fewest from here, and before each fault
//! `balance` moves clients until none has two more than another. So whichever server a fault hits, in each of the
//! clusters under test as many clients are connected to it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::target::Target;

/// An open address.
#[derive(Debug, Clone)]
pub struct Entrance {
    /// What clients connect to.
    pub url: String,
    target: Target,
    open: Arc<Mutex<Vec<Open>>>,
    /// The servers that were ready when Kubernetes could last be asked.
    last: Arc<Mutex<Vec<String>>>,
}

/// A connection, to a server's address.
#[derive(Debug)]
struct Open {
    number: u64,
    address: String,
    /// `None` until it stands.
    task: Option<AbortHandle>,
}

impl Entrance {
    /// Opens it. Each connection goes to a server that is there, if any takes it.
    pub async fn open(target: Target) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("nats://{}", listener.local_addr()?);
        let entrance = Self { url, target, open: Arc::default(), last: Arc::default() };
        let own = entrance.clone();
        tokio::spawn(async move {
            let mut number = 0;
            while let Ok((client, _)) = listener.accept().await {
                number += 1;
                let entrance = own.clone();
                tokio::spawn(async move {
                    let _ = entrance.pass(client, number).await;
                    entrance.change(|open| open.retain(|open| open.number != number));
                });
            }
        });
        Ok(entrance)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Vec<Open>) -> T) -> T {
        change(&mut self.open.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn pass(&self, mut client: TcpStream, number: u64) -> Result<()> {
        let own = self.clone();
        let mut left = tokio::task::spawn_blocking(move || own.ready()).await?;
        let mut server = loop {
            let address = self.change(|open| {
                open.retain(|open| open.number != number);
                let address = fewest(&left, open)?;
                open.push(Open { number, address: address.clone(), task: None });
                Some(address)
            });
            let address = address.context("no server is ready")?;
            match timeout(Duration::from_secs(1), greeted(&address)).await {
                Ok(Ok(stream)) => break stream,
                _ => left.retain(|other| *other != address),
            }
        };
        let passing = tokio::spawn(async move {
            let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                (client.split(), server.split());
            // Either end closes both: a client that gave a silent server up leaves nothing behind.
            tokio::select! {
                _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
                _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
            }
        });
        let task = passing.abort_handle();
        self.change(|open| {
            if let Some(own) = open.iter_mut().find(|open| open.number == number) {
                own.task = Some(task);
            }
        });
        let _ = passing.await;
        Ok(())
    }

    /// Ends connections to servers that have two more than another; says how many. Their clients come again.
    pub fn balance(&self) -> Result<usize> {
        let ready = ready(&self.target)?;
        Ok(self.change(|open| {
            let surplus = surplus(&ready, open);
            let moving = open.iter().filter(|open| surplus.contains(&open.number));
            moving.filter_map(|open| open.task.as_ref()).for_each(AbortHandle::abort);
            surplus.len()
        }))
    }

    fn ready(&self) -> Vec<String> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(ready) = ready(&self.target) {
            *last = ready;
        }
        last.clone()
    }
}

/// A connection on which the server has begun to speak: the kernel takes connections also for one that is frozen.
async fn greeted(address: &str) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect((address, 4222)).await?;
    stream.readable().await?;
    Ok(stream)
}

/// Addresses of the servers that are ready, by name of their pods.
fn ready(target: &Target) -> Result<Vec<String>> {
    let pods = target.pods()?;
    let mut ready: Vec<_> =
        pods.iter().filter(|pod| crate::kubernetes::expect_condition(pod, "Ready", "True").is_ok()).collect();
    ready.sort_by_key(|pod| pod["metadata"]["name"].as_str());
    Ok(ready.iter().filter_map(|pod| Some(pod["status"]["podIP"].as_str()?.to_owned())).collect())
}

fn counted<'a>(ready: &'a [String], open: &[Open]) -> BTreeMap<&'a str, Vec<u64>> {
    let mut counted: BTreeMap<_, _> = ready.iter().map(|address| (address.as_str(), Vec::new())).collect();
    for open in open {
        if let Some(numbers) = counted.get_mut(open.address.as_str()) {
            numbers.push(open.number);
        }
    }
    counted
}

fn fewest(ready: &[String], open: &[Open]) -> Option<String> {
    let counted = counted(ready, open);
    ready.iter().min_by_key(|address| counted.get(address.as_str()).map_or(0, Vec::len)).cloned()
}

/// Connections that are to move, so that no server has two more than another.
fn surplus(ready: &[String], open: &[Open]) -> Vec<u64> {
    let mut counted: Vec<_> = counted(ready, open).into_values().collect();
    let mut surplus = Vec::new();
    loop {
        counted.sort_by_key(Vec::len);
        let [least, .., most] = counted.as_mut_slice() else { return surplus };
        if most.len() < least.len() + 2 {
            return surplus;
        }
        if let Some(number) = most.pop() {
            least.push(number);
            surplus.push(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_go_where_there_are_the_fewest_and_move_until_none_has_two_more() {
        let ready = ["a", "b", "c"].map(str::to_owned);
        let mut open = Vec::new();
        for number in 0..3 {
            let address = fewest(&ready, &open).unwrap();
            open.push(Open { number, address, task: None });
        }
        assert_eq!(open.iter().map(|open| open.address.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(surplus(&ready, &open), [0; 0]);
        open[0].address = "c".into();
        assert_eq!(surplus(&ready, &open).len(), 1, "two at c, none at a");
        assert_eq!(fewest(&ready, &open).unwrap(), "a");
        // connections to servers that are gone count for nobody
        open[0].address = "gone".into();
        assert_eq!(surplus(&ready, &open), [0; 0]);
        assert_eq!(fewest(&[], &open), None);
    }
}
