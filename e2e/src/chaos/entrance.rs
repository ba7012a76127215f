//! The address that clients outside of the cluster know: of no server, as a load balancer's is. Pods
//! get new addresses with every roll, and libraries that read the list of servers only once would
//! otherwise know none that is left.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::target::Target;

/// Opens it; its URL. Each connection goes to a server that is there, if any takes it.
pub async fn open(target: Target) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("nats://{}", listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let target = target.clone();
            tokio::spawn(async move {
                let mut server = connect(target).await?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await?;
                anyhow::Ok(())
            });
        }
    });
    Ok(url)
}

async fn connect(target: Target) -> Result<TcpStream> {
    let pods = tokio::task::spawn_blocking(move || target.pods()).await??;
    let ready = pods.iter().filter(|pod| crate::kubernetes::expect_condition(pod, "Ready", "True").is_ok());
    let mut addresses: Vec<_> = ready.filter_map(|pod| pod["status"]["podIP"].as_str()).collect();
    fastrand::shuffle(&mut addresses);
    for address in addresses {
        if let Ok(Ok(stream)) = timeout(Duration::from_secs(1), TcpStream::connect((address, 4222))).await {
            return Ok(stream);
        }
    }
    None.context("no server is ready")
}
