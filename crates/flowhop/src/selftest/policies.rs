//! The policies under which clauses are tried.

/// A policy, without what is about interfaces.
#[derive(Debug)]
pub struct Policy {
    /// Its name, unique.
    pub name: &'static str,
    /// Rules and translations.
    pub rules: &'static str,
    /// More about each interface, such as `, rpf = "strict"`.
    pub interfaces: &'static str,
}

impl Policy {
    /// The text of the policy, with all interfaces on a path.
    #[must_use]
    pub fn text(&self, path: &str) -> String {
        let more = self.interfaces;
        format!(
            "[interfaces]\n\
             lan = {{ device = \"lan0\", zone = \"inside\", path = \"{path}\"{more} }}\n\
             wan = {{ device = \"wan0\", zone = \"outside\", path = \"{path}\"{more} }}\n\n\
             [table]\nconnections = 4096\n\n{}",
            self.rules
        )
    }
}

/// The inside may go out; from outside, TCP and UDP port 80 of the inside may be reached. No translation.
pub static PLAIN: Policy = Policy {
    name: "plain",
    interfaces: "",
    rules: r#"
[[rule]]
name = "inside may go out"
from = "inside"
to = "outside"
action = "allow"
[[rule]]
name = "telnet is rejected"
from = "outside"
to = "inside"
service = "tcp/23"
action = "reject"
[[rule]]
name = "web"
from = "outside"
to = "inside"
service = ["tcp/80", "udp/80", "icmp/echo-request"]
action = "allow"
"#,
};

/// The inside may go out, and sources have to be reachable where they come from.
pub static STRICT: Policy = Policy {
    name: "strict",
    interfaces: ", rpf = \"strict\"",
    rules: r#"
[[rule]]
name = "inside may go out"
from = "inside"
to = "outside"
action = "allow"
"#,
};

/// The inside may go out and is hidden behind the router's address.
pub static MASQUERADE: Policy = Policy {
    name: "masquerade",
    interfaces: "",
    rules: r#"
[[rule]]
name = "inside may go out"
from = "inside"
to = ["outside", "inside"]
action = "allow"
[[nat]]
name = "hide"
to = "outside"
source = "10.1.0.0/24"
translate.source = "interface"
"#,
};
