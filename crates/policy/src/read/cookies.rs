//! `syn_cookies` of a `[[nat]]`.

use super::node::{Choice, Node};
use super::problem::Problem;
use super::report::Report;
use crate::{DestinationTranslation, SynCookies};

const CHOICES: [Choice<SynCookies>; 3] =
    [("auto", Some(SynCookies::Auto)), ("always", Some(SynCookies::Always)), ("off", Some(SynCookies::Off))];

/// Reads when SYNs to what an entry publishes are answered with cookies. Without the key: "auto" where that can be.
pub(super) fn read(
    node: Option<Node<'_>>,
    translation: Option<&DestinationTranslation>,
    report: &mut Report<'_>,
) -> Option<SynCookies> {
    const OFF: &str = "syn_cookies = \"off\", which is what it is without the key";
    let why = translation.map_or(Some("what is no published service".to_owned()), unfit);
    let Some(node) = node else { return Some(if why.is_none() { SynCookies::Auto } else { SynCookies::Off }) };
    let chosen = node.choice("use of SYN cookies", &CHOICES, report)?;
    if let (SynCookies::Auto | SynCookies::Always, Some(why)) = (chosen, why) {
        let what = format!("\"syn_cookies\" for {why}");
        report.error(node.at, &Problem::Contradiction { what, expected: OFF });
        return None;
    }
    Some(chosen)
}

/// What speaks against answering for a service before its connections are judged.
fn unfit(translation: &DestinationTranslation) -> Option<String> {
    let endpoints = translation.tcp_endpoints();
    if endpoints == 0 {
        return Some("what has no TCP port".to_owned());
    }
    if endpoints > DestinationTranslation::MOST_ENDPOINTS {
        let most = DestinationTranslation::MOST_ENDPOINTS;
        return Some(format!("{endpoints} addresses and ports, of which it can be {most}"));
    }
    if !translation.source.is_any() {
        return Some("a service that is not published to all sources".to_owned());
    }
    None
}
