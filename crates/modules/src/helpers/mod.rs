//! Helpers: protocols whose payload announces connections to come, so that these pass as well.
//!
//! A rule names a helper. What its connections announce is expected for a minute: one connection from the one end to the
//! address and port where the other end says that it listens, with the rule and the translations of the connection that
//! announced it. An end may announce only itself, and no port below 1024 (RFC 2577). Where the end that listens is known
//! by another address or port than it says, the text is rewritten.
//!
//! The parsers of the protocols ([`ftp`], [`tftp`], [`sip`]) know nothing of all that.

mod expected;
pub mod ftp;
pub mod sip;
pub mod tftp;

use std::collections::HashMap;
use std::net::SocketAddr;

use flowhop_engine::interfaces::Interfaces;
use flowhop_engine::{Context, Kept, Module, NewSession, Payload, Related, Replacement, SessionView, Step};
use flowhop_flow::Reason;
use flowhop_flow::key::{self, ip};
use flowhop_flow::record::Tick;
use flowhop_flow::{Key, key::Address};
use flowhop_policy::Helper;
use flowhop_wire::protocol;

use expected::{Expectation, Expected, Wanted};
use ftp::Heard;

use crate::nat::{Bindings, Endpoint, Listener, Opening, Openings};
use crate::shared::{Current, Shared};

/// Name of the module.
pub const NAME: &str = "helpers";
/// The first port that may be announced.
const FIRST_PORT: u16 = 1024;

/// The two ends of a connection, by direction: that of who began it is 0.
const CLIENT: usize = 0;

/// The module.
#[derive(Debug)]
pub struct Helpers {
    shared: Shared,
    openings: Openings,
    /// Control connections of FTP, by serial number.
    dialogues: HashMap<u32, ftp::Dialogue>,
    expected: Expected,
    /// The one that was found last, in case that its connection is not made after all.
    found: Option<(Wanted, Expectation)>,
    /// What was expected under a policy before; given back with the next regular work.
    unwanted: Vec<Opening>,
}

/// One end of a connection.
#[derive(Clone, Copy)]
struct End {
    /// Its own address.
    address: Address,
    /// That by which the other end knows it.
    known: Address,
    /// The translation that makes it so.
    nat: u16,
    /// Port of the box on its side.
    port: u8,
    /// Its own port, and that by which the other end knows it.
    ports: [u16; 2],
}

impl End {
    const fn of(session: &SessionView, which: usize) -> Self {
        let [forward, reverse] = &session.keys;
        if which == CLIENT {
            Self {
                address: forward.source,
                known: reverse.destination,
                nat: session.nat,
                port: session.ports[0],
                ports: [forward.source_port(), reverse.destination_port()],
            }
        } else {
            Self {
                address: reverse.source,
                known: forward.destination,
                nat: session.destination_nat,
                port: session.ports[1],
                ports: [reverse.source_port(), forward.destination_port()],
            }
        }
    }

    /// As it knows itself, and as the other end knows it.
    fn names(&self) -> [SocketAddr; 2] {
        let [own, known] = self.ports;
        [SocketAddr::new(ip(&self.address), own), SocketAddr::new(ip(&self.known), known)]
    }
}

/// Who listens, who connects, and what becomes of it.
struct Meeting {
    listener: Listener,
    related: Related,
    /// Address of who connects, as received.
    connects: Address,
    /// Address of who has begun the connection that announces it.
    client: Address,
    /// Identity word of the keys.
    identity: u32,
}

impl Meeting {
    /// Of the end of a connection that listens at a port, and the other one.
    fn of(session: &SessionView, which: usize, port: u16, context: &Context<'_>) -> Result<Self, Reason> {
        let [listens, connects] = [End::of(session, which), End::of(session, which ^ 1)];
        let zone = |port: u8| context.interfaces.port(port).map(|interface| interface.zone).ok_or(Reason::NoZone);
        let (from, to) = (zone(connects.port)?, zone(listens.port)?);
        let [forward, _] = &session.keys;
        let protocol = forward.protocol();
        // As the end that listens addresses the other one: what a mapping may depend on.
        let remote = if which == CLIENT { forward.destination_port() } else { 0 };
        let listener = Listener {
            inside: Endpoint { protocol, address: listens.address, port },
            known: listens.known,
            nat: listens.nat,
            remote: Endpoint { protocol, address: connects.known, port: remote },
            from,
            rule: session.rule,
        };
        let translated = connects.address != connects.known;
        let source = translated.then_some((connects.nat, connects.known));
        let related = Related { parent: session.serial, from, to, source };
        Ok(Self { listener, related, connects: connects.address, client: forward.source, identity: forward.identity })
    }
}

/// The helper of the rule with an identity.
fn helper_of(current: &Current, rule: u16) -> Option<Helper> {
    if !current.policy.helps() || rule == 0 {
        return None;
    }
    let index = current.rules.iter().position(|number| *number == rule)?;
    current.policy.rules.get(index)?.helper
}

impl Helpers {
    /// The module on shared policy and bindings.
    #[must_use]
    pub fn new(shared: Shared, bindings: Bindings) -> Self {
        Self {
            openings: Openings::new(shared.clone(), bindings),
            shared,
            dialogues: HashMap::new(),
            expected: Expected::default(),
            found: None,
            unwanted: Vec::new(),
        }
    }

    /// Expects a connection from the other end to the endpoint of this one; tells where it will come in.
    fn expect(
        &mut self,
        session: &SessionView,
        which: usize,
        port: u16,
        context: &mut Context<'_>,
    ) -> Result<(Wanted, Endpoint), Reason> {
        let meeting = Meeting::of(session, which, port, context)?;
        let opening = self.openings.open(&meeting.listener, context)?;
        Ok((self.wait_for(&meeting, opening, context.now), opening.external))
    }

    /// The same for a port and the one behind it; tells where the first will come in.
    fn expect_pair(
        &mut self,
        session: &SessionView,
        which: usize,
        port: u16,
        context: &mut Context<'_>,
    ) -> Result<Endpoint, Reason> {
        let meeting = Meeting::of(session, which, port, context)?;
        let pair = self.openings.open_pair(&meeting.listener, context)?;
        for opening in pair {
            self.wait_for(&meeting, opening, context.now);
        }
        Ok(pair[0].external)
    }

    fn wait_for(&mut self, meeting: &Meeting, opening: Opening, now: Tick) -> Wanted {
        let key = Key {
            source: meeting.connects,
            destination: opening.external.address,
            ports: key::ports(0, opening.external.port),
            identity: meeting.identity,
        };
        let wanted = Wanted::of(&key);
        let rule = meeting.listener.rule;
        let Meeting { related, client, .. } = *meeting;
        let gone = self.expected.add(wanted, Expectation { opening, related, client, rule, since: now });
        self.close(&gone, now);
        wanted
    }

    fn close(&self, gone: &[Opening], now: Tick) {
        for opening in gone {
            self.openings.close(opening, now);
        }
    }

    fn forget(&mut self, serial: u32, now: Tick) {
        self.dialogues.remove(&serial);
        let gone = self.expected.forget(serial);
        self.close(&gone, now);
    }

    fn hear_ftp(
        &mut self,
        session: &SessionView,
        direction: usize,
        payload: &[u8],
        context: &mut Context<'_>,
    ) -> Result<Payload, Reason> {
        let mut dialogue = self.dialogues.get(&session.serial).cloned().unwrap_or_default();
        let all = dialogue.hear(direction, payload);
        if all.len() > ftp::AT_ONCE {
            return Err(Reason::HelperLimit);
        }
        // A server's replies are only about what it has itself; a client's commands are refused.
        let mut said = Payload { binding: direction == CLIENT, ..Payload::default() };
        for heard in &all {
            match self.act_on(session, direction, heard, context)? {
                Some(replacement) => {
                    said.announced = true;
                    said.replacements.extend(replacement);
                }
                None => said.declined = true,
            }
        }
        self.dialogues.insert(session.serial, dialogue);
        Ok(said)
    }

    /// A message of SIP: who is named in it is named as the other end knows it, and media is expected where its sender
    /// listens.
    fn hear_sip(
        &mut self,
        session: &SessionView,
        direction: usize,
        payload: &[u8],
        context: &mut Context<'_>,
    ) -> Result<Payload, Reason> {
        let Some(message) = sip::read(payload) else { return Ok(Payload::default()) };
        let [sender, receiver] = [End::of(session, direction), End::of(session, direction ^ 1)];
        let [own, known] = sender.names();
        let [other, other_known] = receiver.names();
        let mut said = Payload::default();
        let mut ports = Vec::new();
        for stream in &message.streams {
            let usable = stream.port >= FIRST_PORT && stream.port < u16::MAX && ports.len() < sip::STREAMS;
            if !usable || stream.address != Some(own.ip()) {
                said.declined = true;
                ports.push(None);
                continue;
            }
            ports.push(Some(self.expect_pair(session, direction, stream.port, context)?.port));
            said.announced = true;
        }
        let changes = message.rewrite(&[(own, known), (other_known, other)], &ports);
        said.replacements =
            changes.into_iter().map(|(place, new)| Replacement { at: place.start, old: place.len(), new }).collect();
        Ok(said)
    }

    /// Expects what was announced, and says what is written in its place, if anything is; `None`: it is not acted on.
    fn act_on(
        &mut self,
        session: &SessionView,
        direction: usize,
        heard: &Heard,
        context: &mut Context<'_>,
    ) -> Result<Option<Option<Replacement>>, Reason> {
        let Heard::Listens { address, port, form, place, gone } = heard else {
            return if *heard == Heard::Refused { Err(Reason::HelperRefused) } else { Ok(None) };
        };
        let end = End::of(session, direction);
        let own = ip(&end.address);
        if address.is_some_and(|address| address != own) || *port < FIRST_PORT {
            // A server that does not know its own address is passed on: clients mostly do not believe it, either.
            return if direction == CLIENT { Err(Reason::HelperRefused) } else { Ok(None) };
        }
        let (wanted, external) = self.expect(session, direction, *port, context)?;
        if (external.address, external.port) == (end.address, *port) {
            return Ok(Some(None));
        }
        // What the other end is told: of a server the address that it is known by is in the control connection.
        let text = form.text(ip(&external.address), external.port);
        let replacement = text.and_then(|text| replacement(place, gone, &text));
        if replacement.is_none()
            && let Some(expectation) = self.expected.take(&wanted)
        {
            self.openings.close(&expectation.opening, context.now);
        }
        Ok(replacement.map(Some))
    }
}

/// The part of a text that is in this payload; `None` if what has left before is of another one.
fn replacement(place: &std::ops::Range<isize>, gone: &[u8], text: &[u8]) -> Option<Replacement> {
    let new = text.strip_prefix(gone)?.to_vec();
    let (at, end) = (usize::try_from(place.start.max(0)).ok()?, usize::try_from(place.end).ok()?);
    (end > at).then(|| Replacement { at, old: end - at, new })
}

impl Module for Helpers {
    fn name(&self) -> &'static str {
        NAME
    }

    fn open(&mut self, session: &mut NewSession, context: &mut Context<'_>) -> Step {
        let wanted = Wanted::of(&session.key);
        if session.running || self.expected.get(&wanted).is_none_or(|found| found.related.from != session.from) {
            return Step::Continue;
        }
        let Some(expectation) = self.expected.take(&wanted) else { return Step::Continue };
        let Expectation { opening, related, rule, .. } = expectation;
        self.openings.taken(&opening, context.now);
        self.found = Some((wanted, expectation));
        session.destination = opening.inside.address;
        session.ports = key::ports(session.key.source_port(), opening.inside.port);
        if opening.external != opening.inside {
            session.destination_nat = opening.nat;
        }
        session.admitted = opening.mapped;
        session.rule = rule;
        session.related = Some(related);
        Step::Continue
    }

    fn abandon(&mut self, session: &NewSession, now: Tick) {
        let found = self.found.take().filter(|(wanted, _)| *wanted == Wanted::of(&session.key));
        let Some((wanted, expectation)) = found.filter(|_| session.related.is_some()) else { return };
        self.openings.again(&expectation.opening);
        let gone = self.expected.add(wanted, expectation);
        self.close(&gone, now);
    }

    fn closed(&mut self, session: &SessionView, now: Tick) {
        self.forget(session.serial, now);
    }

    /// Asked after the filter, which may say another rule. Of one that has no helper any more nothing is expected.
    fn revalidate(&mut self, session: &SessionView, _: &Interfaces) -> Option<Kept> {
        if helper_of(&self.shared.current(), session.rule).is_none() {
            self.dialogues.remove(&session.serial);
            let gone = self.expected.forget(session.serial);
            self.unwanted.extend(gone);
        } else {
            self.expected.set_rule(session.serial, session.rule);
        }
        Some(Kept::as_it_is(session))
    }

    fn helper(&self, rule: u16) -> Option<&'static str> {
        helper_of(&self.shared.current(), rule).map(Helper::name)
    }

    fn payload_begins(&mut self, session: &SessionView, running: bool) {
        self.dialogues.remove(&session.serial);
        if running && helper_of(&self.shared.current(), session.rule) == Some(Helper::Ftp) {
            self.dialogues.insert(session.serial, ftp::Dialogue::running());
        }
    }

    fn payload(
        &mut self,
        session: &SessionView,
        direction: usize,
        payload: &[u8],
        context: &mut Context<'_>,
    ) -> Result<Payload, Reason> {
        let helper = helper_of(&self.shared.current(), session.rule);
        match (helper, session.keys[0].protocol()) {
            (Some(Helper::Ftp), protocol::TCP) => self.hear_ftp(session, direction, payload, context),
            (Some(Helper::Tftp), protocol::UDP) if direction == CLIENT && tftp::is_request(payload) => {
                self.expect(session, CLIENT, session.keys[0].source_port(), context)?;
                Ok(Payload { announced: true, ..Payload::default() })
            }
            (Some(Helper::Sip), protocol::UDP) => self.hear_sip(session, direction, payload, context),
            _ => Ok(Payload::default()),
        }
    }

    fn maintain(&mut self, now: Tick) {
        let mut gone = self.expected.expire(now);
        gone.append(&mut self.unwanted);
        self.close(&gone, now);
    }
}
