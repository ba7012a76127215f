//! `/`: a page with links to the endpoints, for people.
//!
//! Owns the page. Never loads anything from elsewhere: it works on a machine without network.

use crate::endpoint::Endpoint;
use crate::varz::Varz;

const LINKS: [(Endpoint, &str); 14] = [
    (Endpoint::Varz, "Server: configuration and counters"),
    (Endpoint::Connz, "Client connections"),
    (Endpoint::Routez, "Routes to the other servers of the cluster"),
    (Endpoint::Subsz, "Subscriptions"),
    (Endpoint::Accountz, "Accounts"),
    (Endpoint::AccountStatz, "Traffic of accounts"),
    (Endpoint::Jsz, "JetStream"),
    (Endpoint::Leafz, "Leaf nodes"),
    (Endpoint::Gatewayz, "Gateways"),
    (Endpoint::Ipqueuesz, "Internal queues"),
    (Endpoint::Healthz, "Health"),
    (Endpoint::Livez, "Liveness probe"),
    (Endpoint::Readyz, "Readiness probe"),
    (Endpoint::Metrics, "Metrics for Prometheus"),
];

/// The page; `base` is the cleaned base path, empty for the root.
pub(crate) fn page(varz: &Varz, base: &str) -> String {
    let name = escape(&varz.server_name);
    let version = escape(&varz.version);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>{name}</title>\n<style>\
         body{{font:16px/1.6 system-ui,sans-serif;margin:2rem}}td{{padding-right:2rem}}</style>\n</head>\n\
         <body>\n<h1>{name}</h1>\n<p>Starling, compatible with nats-server {version}</p>\n<table>\n"
    );
    for (endpoint, title) in LINKS {
        let path = endpoint.path();
        page.push_str(&format!(
            "<tr><td><a href=\"{}{path}\">{path}</a></td><td>{title}</td></tr>\n",
            escape(base)
        ));
    }
    page.push_str("</table>\n</body>\n</html>\n");
    page
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stand_below_the_base_path_and_names_are_escaped() {
        let varz = Varz { server_name: "<b>".into(), ..Varz::default() };
        let page = page(&varz, "/nats");
        assert!(page.contains("href=\"/nats/varz\""));
        assert!(page.contains("<h1>&lt;b&gt;</h1>"));
    }
}
