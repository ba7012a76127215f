//! Accounts and users as a team has them: objects in, Secrets out; who may do what; credentials that change
//! under a client; `kubectl nats`; and the numbers that alerts and dashboard ask for.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use async_nats::{Client, ConnectOptions, Event};
use futures::StreamExt;
use serde_json::Value;

use super::nats_cluster::{NatsCluster, READY_TIMEOUT, Server};
use super::{Context, OPERATOR_NAMESPACE};
use crate::images::target_folder;
use crate::kubernetes::{condition, shown};
use crate::process::{output, project_root};

/// Name of the cluster.
const NAME: &str = "tenants";
/// How long something may take that servers only have to be told.
const TELL_TIMEOUT: Duration = Duration::from_secs(120);
/// How long nothing must arrive to believe that nothing does.
const SILENCE: Duration = Duration::from_millis(500);

/// Two accounts, one of which hears of the other's orders; three users.
const OBJECTS: &str = "
apiVersion: starling.dev/v1alpha1
kind: NatsCluster
metadata: {name: tenants}
spec: {replicas: 2, auth: {mode: Static}}
---
apiVersion: starling.dev/v1alpha1
kind: NatsAccount
metadata: {name: shop}
spec:
  clusterRef: {name: tenants}
  limits: {maxPayload: 64Ki}
  exports: [{type: Stream, subject: 'orders.>'}, {type: Service, subject: price}]
---
apiVersion: starling.dev/v1alpha1
kind: NatsAccount
metadata: {name: books}
spec:
  clusterRef: {name: tenants}
  imports:
  - {type: Stream, account: shop, subject: 'orders.>', to: 'shop.orders.>'}
  - {type: Service, account: shop, subject: price, to: shop.price}
  mappings: [{subject: 'old.*', destinations: [{subject: 'new.{{wildcard(1)}}'}]}]
---
apiVersion: starling.dev/v1alpha1
kind: NatsUser
metadata: {name: checkout}
spec:
  clusterRef: {name: tenants}
  accountRef: {name: shop}
  permissions:
    publish: {allow: ['orders.>', '_INBOX.>']}
    subscribe: {allow: ['orders.>', price, '_INBOX.>']}
  credentials: {overlap: 15s}
---
apiVersion: starling.dev/v1alpha1
kind: NatsUser
metadata: {name: stock}
spec: {clusterRef: {name: tenants}, accountRef: {name: shop}, credentials: {type: NKey}}
---
apiVersion: starling.dev/v1alpha1
kind: NatsUser
metadata: {name: clerk}
spec: {clusterRef: {name: tenants}, accountRef: {name: books}}
";

/// A user in a pod that has nothing but the Secret.
const CLIENT_POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: tenants-client}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  securityContext: {runAsNonRoot: true, runAsUser: 65532, fsGroup: 65532, seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: client
    image: localhost/starling-e2e:test
    args: [client, /nats]
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
    volumeMounts: [{name: nats, mountPath: /nats}]
  volumes: [{name: nats, secret: {secretName: checkout-nats}}]
";

/// Plays the scenario.
pub(super) fn play(context: &mut Context) -> Result<()> {
    let before = context.kubernetes.inventory()?;
    context.step("kubectl apply of a cluster, 2 accounts, 3 users: all Ready", |context| {
        let start = Instant::now();
        context.kubernetes.with_manifest(&["apply"], OBJECTS)?;
        NatsCluster::new(&context.kubernetes, NAME).wait_ready(2)?;
        let ready = ["wait", "--for=condition=Ready", "natsaccounts,natsusers", "--all", "--timeout=60s"];
        context.kubernetes.kubectl(&ready)?;
        Ok(format!("{} after kubectl apply", shown(start)))
    })?;
    context.step("nobody gets in without credentials", |context| {
        let servers = servers(context)?;
        context.runtime.block_on(async {
            for server in &servers {
                ensure!(async_nats::connect(server.url()).await.is_err(), "{} is open", server.name);
            }
            Ok("refused by every server".to_owned())
        })
    })?;
    if context.has_client_image {
        context.step("a client in a pod connects with the Secret alone", client_pod)?;
    }
    context.step("users may do what they are permitted, and nothing else", permissions)?;
    context.step("accounts are apart, but for what is exported and imported", sharing)?;
    context.step("new credentials: no refused login, no lost connection, the former end", rotation)?;
    context.step("a bad NatsUser and a bad NatsAccount harm nobody", bad_objects)?;
    context.step("kubectl nats status, top, creds, report, drain, restart", plugin)?;
    context.step("brokers and operator serve every number that alerts and dashboard ask for", metrics)?;
    context.step("tenants: kubectl delete", |context| {
        context.kubernetes.kubectl(&["delete", "natsusers,natsaccounts", "--all"])?;
        if context.has_client_image {
            context.kubernetes.kubectl(&["delete", "pod", "tenants-client"])?;
        }
        NatsCluster::new(&context.kubernetes, NAME).delete(&before)
    })
}

fn servers(context: &Context) -> Result<Vec<Server>> {
    NatsCluster::new(&context.kubernetes, NAME).servers()
}

/// What a user's Secret holds.
fn secret(context: &Context, user: &str) -> Result<BTreeMap<String, String>> {
    let object = context.kubernetes.get(&["secret", &format!("{user}-nats")])?;
    let data = object["data"].as_object().context("no data")?;
    data.iter().map(|(key, value)| Ok((key.clone(), decode(value.as_str().unwrap_or_default())?))).collect()
}

fn decode(text: &str) -> Result<String> {
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for letter in text.bytes().filter(|letter| *letter != b'=') {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            other => bail!("{other} is not base64"),
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff)?);
        }
    }
    Ok(String::from_utf8(bytes)?)
}

/// Connects as a Secret says. `url` replaces the Service's, which is not reached from here.
pub async fn connect(data: &BTreeMap<String, String>, url: &str, options: ConnectOptions) -> Result<Client> {
    let text = |key: &str| data.get(key).cloned();
    let options = match (text("nkey"), text("user"), text("password")) {
        (Some(seed), ..) => options.nkey(seed),
        (None, Some(user), Some(password)) => options.user_and_password(user, password),
        _ => bail!("neither nkey nor user and password in {:?}", data.keys()),
    };
    Ok(options.connection_timeout(Duration::from_secs(5)).connect(url).await?)
}

/// Reads a mounted Secret, connects, and hears itself: what `starling-e2e client` does in a pod.
pub fn client(folder: &std::path::Path) -> Result<()> {
    let mut data = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if let Ok(text) = std::fs::read_to_string(entry.path()) {
            data.insert(entry.file_name().to_string_lossy().into_owned(), text);
        }
    }
    let url = data.get("url").context("no url in the Secret")?.clone();
    tokio::runtime::Runtime::new()?.block_on(async {
        let client = connect(&data, &url, ConnectOptions::new()).await?;
        let mut subscriber = client.subscribe("orders.pod").await?;
        client.publish("orders.pod", "hello".into()).await?;
        let heard = tokio::time::timeout(Duration::from_secs(5), subscriber.next()).await?;
        let heard = heard.context("the connection ended")?;
        println!("connected to {url}, heard {:?}", String::from_utf8_lossy(&heard.payload));
        Ok(())
    })
}

fn client_pod(context: &Context) -> Result<String> {
    context.kubernetes.with_manifest(&["apply"], CLIENT_POD)?;
    context.kubernetes.wait_for("the pod is done", Duration::from_secs(60), || {
        let pod = context.kubernetes.get(&["pod", "tenants-client"])?;
        let phase = pod["status"]["phase"].as_str().unwrap_or_default().to_owned();
        ensure!(
            phase == "Succeeded",
            "it is {phase}: {}",
            context.kubernetes.kubectl(&["logs", "tenants-client"]).unwrap_or_default()
        );
        Ok(())
    })?;
    Ok(context.kubernetes.kubectl(&["logs", "tenants-client"])?.trim().to_owned())
}

fn permissions(context: &Context) -> Result<String> {
    let servers = servers(context)?;
    let (checkout, stock) = (secret(context, "checkout")?, secret(context, "stock")?);
    let url = servers.first().context("no server")?.url();
    context.runtime.block_on(async {
        let (send, mut refusals) = tokio::sync::mpsc::unbounded_channel();
        let options = ConnectOptions::new().event_callback(move |event| {
            let send = send.clone();
            async move {
                if let Event::ServerError(error) = event {
                    let _ = send.send(error.to_string());
                }
            }
        });
        let user = connect(&checkout, &url, options).await?;
        let other = connect(&stock, &url, ConnectOptions::new()).await?;
        let mut all = other.subscribe(">").await?;
        other.flush().await?;
        user.publish("secret.plan", "no".into()).await?;
        user.publish("orders.new", "yes".into()).await?;
        user.flush().await?;
        let heard = tokio::time::timeout(Duration::from_secs(5), all.next()).await?.context("ended")?;
        ensure!(heard.subject.as_str() == "orders.new", "heard {}", heard.subject);
        let refusal =
            tokio::time::timeout(Duration::from_secs(5), refusals.recv()).await?.context("ended")?;
        ensure!(refusal.to_lowercase().contains("permissions violation"), "{refusal}");
        Ok(format!("refused: {refusal}"))
    })
}

fn sharing(context: &Context) -> Result<String> {
    let servers = servers(context)?;
    let (shop, books) = (secret(context, "stock")?, secret(context, "clerk")?);
    let (first, last) = (servers.first().context("no server")?, servers.last().context("no server")?);
    context.runtime.block_on(async {
        let shop = connect(&shop, &first.url(), ConnectOptions::new()).await?;
        let books = connect(&books, &last.url(), ConnectOptions::new()).await?;
        let mut heard = books.subscribe("shop.orders.>").await?;
        let mut everything = books.subscribe("private.>").await?;
        let mut mapped = books.subscribe("new.*").await?;
        books.flush().await?;
        let mut asked = shop.subscribe("price").await?;
        shop.flush().await?;
        // Interest crosses between servers a moment after the SUB.
        let deadline = Instant::now() + Duration::from_secs(10);
        let message = loop {
            shop.publish("private.a", "x".into()).await?;
            shop.publish("orders.1", "x".into()).await?;
            shop.flush().await?;
            if let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(200), heard.next()).await {
                break message;
            }
            ensure!(Instant::now() < deadline, "an imported message does not arrive");
        };
        ensure!(message.subject.as_str() == "shop.orders.1", "arrived as {}", message.subject);
        ensure!(
            tokio::time::timeout(SILENCE, everything.next()).await.is_err(),
            "a message of another account arrived"
        );
        books.publish("old.7", "x".into()).await?;
        let message = tokio::time::timeout(Duration::from_secs(5), mapped.next()).await?.context("ended")?;
        ensure!(message.subject.as_str() == "new.7", "mapped to {}", message.subject);
        let server = shop.clone();
        let answers = tokio::spawn(async move {
            while let Some(request) = asked.next().await {
                if let Some(reply) = request.reply {
                    let _ = server.publish(reply, "42".into()).await;
                }
            }
        });
        let answer = loop {
            match tokio::time::timeout(Duration::from_secs(2), books.request("shop.price", "".into())).await {
                Ok(Ok(answer)) => break answer,
                _ => ensure!(Instant::now() < deadline, "an imported service does not answer"),
            }
        };
        answers.abort();
        ensure!(answer.payload.as_ref() == b"42", "answered {:?}", answer.payload);
        Ok("stream, service and mapping work across two servers; the rest stays apart".to_owned())
    })
}

/// Clients log in with what the Secret holds, all the time, while credentials change.
fn rotation(context: &Context) -> Result<String> {
    let former = secret(context, "checkout")?;
    let url = servers(context)?.first().context("no server")?.url();
    let start = Instant::now();
    let (mut logins, mut offered_after) = (0_u64, None);
    let kept = context.runtime.block_on(connect(&former, &url, ConnectOptions::new()))?;
    kubectl_nats(context, &["creds", "checkout", "--rotate", "--no-wait"])?;
    // Until the overlap is over, whatever the Secret holds is let in by every server that takes clients.
    while offered_after.is_none() || start.elapsed() < Duration::from_secs(5) {
        ensure!(start.elapsed() < TELL_TIMEOUT, "the Secret holds no new credentials");
        let now = secret(context, "checkout")?;
        if now.get("user") != former.get("user") && offered_after.is_none() {
            offered_after = Some(start.elapsed());
        }
        for server in context.kubernetes.get(&["pods", "-l", "app.kubernetes.io/instance=tenants"])?["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|pod| crate::kubernetes::expect_condition(pod, "Ready", "True").is_ok())
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
            .filter_map(|pod| pod["status"]["podIP"].as_str())
        {
            let url = format!("nats://{server}:4222");
            match context.runtime.block_on(connect(&now, &url, ConnectOptions::new())) {
                Ok(_) => logins += 1,
                // A server that goes down refuses by the network, not by the door.
                Err(error) if error.to_string().contains("authorization") => {
                    bail!("{url} refuses what the Secret holds: {error}")
                }
                Err(_) => {}
            }
        }
    }
    let status = context.kubernetes.get(&["natsuser", "checkout"])?;
    ensure!(status["status"]["formerUntil"].is_string(), "no overlap: {}", status["status"]);
    let overlapping = context.runtime.block_on(connect(&former, &url, ConnectOptions::new())).is_ok();
    ensure!(overlapping, "the former credentials are refused during the overlap");
    let kept_open = kept.connection_state() == async_nats::connection::State::Connected;
    context.kubernetes.wait_for("the former credentials are refused", TELL_TIMEOUT, || {
        let refused = context.runtime.block_on(connect(&former, &url, ConnectOptions::new())).is_err();
        ensure!(refused, "they are still let in");
        Ok(())
    })?;
    let ended = shown(start);
    NatsCluster::new(&context.kubernetes, NAME).wait_ready(2)?;
    Ok(format!(
        "the Secret changed after {:.1} s, the former ended after {ended}; {logins} logins, none refused; a connection made before was {} through it",
        offered_after.unwrap_or_default().as_secs_f64(),
        if kept_open { "kept" } else { "moved" },
    ))
}

fn bad_objects(context: &Context) -> Result<String> {
    let digest = |context: &Context| -> Result<Value> {
        Ok(context.kubernetes.get(&["natscluster", NAME])?["status"]["configDigest"].clone())
    };
    let before = digest(context)?;
    let refused = [
        (
            "natsuser",
            "clerk",
            r#"{"spec":{"permissions":{"publish":{"allow":["a..b"]}}}}"#,
            r#"{"spec":{"permissions":null}}"#,
            "a..b",
        ),
        (
            "natsaccount",
            "shop",
            r#"{"spec":{"mappings":[{"subject":"a.*","destinations":[{"subject":"b.$7"}]}]}}"#,
            r#"{"spec":{"mappings":null}}"#,
            "",
        ),
    ];
    let mut messages = Vec::new();
    for (kind, name, bad, good, part) in refused {
        context.kubernetes.kubectl(&["patch", kind, name, "--type=merge", "-p", bad])?;
        let message = context.kubernetes.wait_for("it is rejected", TELL_TIMEOUT, || {
            let object = context.kubernetes.get(&[kind, name])?;
            match condition(&object, "Synced") {
                Some(("False", "Rejected", message)) if message.contains(part) => Ok(message.to_owned()),
                other => bail!("Synced is {other:?}"),
            }
        })?;
        let ready = context.kubernetes.get(&[kind, name])?;
        ensure!(
            condition(&ready, "Ready").is_some_and(|(status, ..)| status == "True"),
            "{name} is not Ready any more"
        );
        messages.push(message);
        ensure!(digest(context)? == before, "the servers' configuration changed");
        context.kubernetes.kubectl(&["patch", kind, name, "--type=merge", "-p", good])?;
    }
    let lost = OBJECTS
        .replace("metadata: {name: checkout}", "metadata: {name: lost}")
        .replace("accountRef: {name: shop}", "accountRef: {name: nowhere}");
    let document = lost.split("---").find(|part| part.contains("name: lost")).unwrap_or_default();
    context.kubernetes.with_manifest(&["apply"], document)?;
    context.kubernetes.wait_for("it is told why not", TELL_TIMEOUT, || {
        let object = context.kubernetes.get(&["natsuser", "lost"])?;
        let found = condition(&object, "Ready").map(|(_, reason, _)| reason.to_owned());
        ensure!(found.as_deref() == Some("AccountNotFound"), "Ready says {found:?}");
        Ok(())
    })?;
    context.kubernetes.kubectl(&["delete", "natsuser", "lost"])?;
    let overlap = r#"{"spec":{"credentials":{"rotateAfter":"1m","overlap":"2m"}}}"#;
    let Err(error) =
        context.kubernetes.kubectl(&["patch", "natsuser", "clerk", "--type=merge", "-p", overlap])
    else {
        bail!("an overlap longer than the age was accepted");
    };
    ensure!(format!("{error:#}").contains("must be shorter than"), "{error:#}");
    let moved = r#"{"spec":{"accountRef":{"name":"shop"}}}"#;
    let Err(error) = context.kubernetes.kubectl(&["patch", "natsuser", "clerk", "--type=merge", "-p", moved])
    else {
        bail!("a user moved to another account");
    };
    ensure!(format!("{error:#}").contains("cannot be changed"), "{error:#}");
    NatsCluster::new(&context.kubernetes, NAME).wait_ready(2)?;
    Ok(messages.join(" | "))
}

/// `kubectl nats`, found by kubectl as its plugins are.
fn kubectl_nats(context: &Context, arguments: &[&str]) -> Result<String> {
    let folder = target_folder().join("debug");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command: Command = context.kubernetes.plain_kubectl()?;
    command.env("PATH", format!("{}:{path}", folder.display())).arg("nats").args(arguments);
    output(command.args(["--namespace", &context.kubernetes.namespace]))
}

fn plugin(context: &Context) -> Result<String> {
    let expect = |arguments: &[&str], parts: &[&str]| -> Result<String> {
        let text = kubectl_nats(context, arguments)?;
        for part in parts {
            ensure!(text.contains(part), "{part:?} is not in\n{text}");
        }
        Ok(text)
    };
    expect(&["status"], &["NAME", NAME, "2/2"])?;
    expect(
        &["status", NAME],
        &["tenants-0", "tenants-1", "AllServersReady", "checkout", "checkout-nats", "Applied"],
    )?;
    expect(
        &["top", NAME, "--count", "2", "--interval-seconds", "1"],
        &["CLIENTS", "tenants-0", "tenants-1"],
    )?;
    expect(&["creds", "clerk"], &["export NATS_URL='nats://tenants.e2e.svc:4222'", "NATS_PASSWORD"])?;
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("report");
    let report = out.display().to_string();
    let written = expect(
        &["report", NAME, "--output", &report, "--operator-namespace", OPERATOR_NAMESPACE],
        &["files"],
    )?;
    let password = secret(context, "clerk")?.remove("password").context("no password")?;
    let mut files = 0;
    for entry in std::fs::read_dir(&out)? {
        let path = entry?.path();
        let text = std::fs::read_to_string(&path)?;
        ensure!(!text.contains(&password), "{} holds a password", path.display());
        files += 1;
    }
    ensure!(files >= 18, "only {files} files: {written}");
    let start = Instant::now();
    expect(&["drain", NAME, "tenants-1"], &["is back"])?;
    let drained = shown(start);
    let start = Instant::now();
    expect(&["restart", NAME], &["all servers are replaced"])?;
    let restarted = shown(start);
    NatsCluster::new(&context.kubernetes, NAME).wait_ready(2)?;
    expect(&["hibernate", NAME], &["hibernated is true"])?;
    context.kubernetes.wait_for("no server runs", READY_TIMEOUT, || {
        let list = context.kubernetes.get(&["pods", "-l", "app.kubernetes.io/instance=tenants"])?;
        ensure!(list["items"].as_array().is_some_and(Vec::is_empty), "pods are left");
        Ok(())
    })?;
    expect(&["wake", NAME], &["hibernated is false"])?;
    NatsCluster::new(&context.kubernetes, NAME).wait_ready(2)?;
    Ok(format!("{files} files in the report, no password in them; drain {drained}, restart {restarted}"))
}

fn metrics(context: &Context) -> Result<String> {
    let files = project_root().join("charts/starling-operator/files");
    let used = ["alerts.yaml", "dashboard.json"].map(|file| std::fs::read_to_string(files.join(file)));
    let used = used.into_iter().collect::<std::io::Result<Vec<_>>>()?.join("\n");
    let words = used.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let names: std::collections::BTreeSet<_> = words.filter(|word| word.starts_with("gnatsd_")).collect();
    ensure!(names.len() >= 8, "{names:?}");
    let user = secret(context, "stock")?;
    for server in servers(context)? {
        // What is served about accounts is about those that somebody uses.
        let _client = context.runtime.block_on(async {
            let client = connect(&user, &server.url(), ConnectOptions::new()).await?;
            client.publish("orders.counted", "x".into()).await?;
            client.flush().await?;
            anyhow::Ok(client)
        })?;
        let (status, text) = crate::http::get(&format!("http://{}:8222/metrics", server.address))?;
        ensure!(status == 200, "{} answers /metrics with {status}", server.name);
        for name in &names {
            let served = text.lines().any(|line| line.split(['{', ' ']).next() == Some(*name));
            ensure!(served, "{} does not serve {name}", server.name);
        }
    }
    let mut operator = context.kubernetes.clone();
    OPERATOR_NAMESPACE.clone_into(&mut operator.namespace);
    let pods = operator.get(&["pods", "-l", "app.kubernetes.io/name=starling-operator"])?;
    let addresses =
        pods["items"].as_array().into_iter().flatten().filter_map(|pod| pod["status"]["podIP"].as_str());
    let answers = addresses
        .map(|address| Ok(crate::http::get(&format!("http://{address}:8080/metrics"))?.1))
        .collect::<Result<Vec<_>>>()?;
    let leads = |text: &String| text.lines().any(|line| line == "starling_operator_leader 1");
    ensure!(answers.iter().filter(|text| leads(text)).count() == 1, "not one of {} leads", answers.len());
    let text = answers.into_iter().find(leads).context("no operator")?;
    let ready = "starling_operator_cluster_ready_servers{namespace=\"e2e\",name=\"tenants\"} 2";
    for line in [ready, "starling_operator_reconciles_total{result=\"success\"}"] {
        ensure!(text.contains(line), "{line} is not in\n{text}");
    }
    Ok(format!("{} names of brokers", names.len()))
}
