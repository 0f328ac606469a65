//! Whatever is done to a policy file, checking it ends with a policy or with faults that have a line.

use flowhop_policy::{Severity, Source, parse};

const SEEDS: [&str; 2] = [include_str!("policies/contract.toml"), include_str!("policies/everything.toml")];

/// What the language is made of, and what upsets parsers.
const PIECES: [&str; 54] = [
    "[",
    "]",
    "{",
    "}",
    "[[",
    "]]",
    "\"",
    "\"\"\"",
    "'",
    "'''",
    "=",
    ",",
    ".",
    "#",
    "\n",
    "\r\n",
    "\\",
    "\\u0000",
    "!",
    "-",
    "/",
    "rule",
    "nat",
    "interfaces",
    "addresses",
    "services",
    "include",
    "enabled = false",
    "comment",
    "any",
    "self",
    "name",
    "0",
    "-1",
    "0x7fffffffffffffff",
    "99999999999999999999",
    "1e400",
    "nan",
    "1979-05-27",
    "true",
    "\u{0}",
    "\u{feff}",
    "\u{1f980}",
    "ü",
    "::/0",
    "::ffff:0:0/96",
    "0.0.0.0/0",
    "255.255.255.255",
    "tcp/0-65535",
    "udp/65535",
    "1/s",
    "14d",
    "[[rule]]\n",
    "\t",
];

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % sides.max(1)
    }

    /// A place between two characters.
    fn place(&mut self, text: &str) -> usize {
        let mut at = self.roll(text.len() + 1);
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    }

    fn mutate(&mut self, text: &mut String) {
        let (a, b) = (self.place(text), self.place(text));
        let (start, end) = (a.min(b), a.max(b));
        let near = text.ceil_char_boundary((start + 1 + self.roll(12)).min(text.len()));
        match self.roll(6) {
            0 => text.replace_range(start..near, ""),
            1 => text.replace_range(start..near, PIECES[self.roll(PIECES.len())]),
            2 => text.insert_str(start, PIECES[self.roll(PIECES.len())]),
            3 => text.truncate(end),
            4 => {
                let copy = text[start..near].to_owned();
                text.insert_str(self.place(text), &copy);
            }
            _ => {
                let lines: Vec<&str> = text.lines().collect();
                let (from, to) = (self.roll(lines.len()), self.roll(lines.len()));
                let mut lines: Vec<String> = lines.into_iter().map(str::to_owned).collect();
                if !lines.is_empty() {
                    lines.swap(from, to);
                }
                *text = lines.join("\n");
            }
        }
    }
}

#[test]
fn nothing_that_is_done_to_a_file_ends_in_a_panic() {
    let rounds = std::env::var("FLOWHOP_MUTATIONS").ok().and_then(|count| count.parse().ok()).unwrap_or(1000);
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for round in 0..rounds {
        let mut text = SEEDS[round % SEEDS.len()].to_owned();
        for _ in 0..=dice.roll(8) {
            dice.mutate(&mut text);
        }
        let sources = [("p.toml", text.as_str()), ("conf.d/a.toml", SEEDS[dice.roll(2)])]
            .map(|(name, text)| Source { name: name.to_owned(), text: text.to_owned() });
        let sources = &sources[..1 + dice.roll(2)];
        match parse(sources) {
            Ok(checked) => assert!(checked.warnings.iter().all(|warning| warning.severity == Severity::Warning)),
            Err(faults) => {
                assert!(faults.iter().any(|fault| fault.severity == Severity::Error));
                for fault in &faults {
                    let text = &sources[usize::from(fault.file != "p.toml")].text;
                    let line = text.split('\n').nth(fault.line as usize - 1);
                    assert!(line.is_some_and(|line| line.starts_with(&fault.line_text)), "{fault}");
                    assert!(!fault.to_string().is_empty() && fault.column > 0 && fault.width > 0);
                }
            }
        }
    }
}

#[test]
fn the_seeds_are_good_but_for_what_is_not_supported() {
    let source = Source { name: "p.toml".to_owned(), text: SEEDS[1].to_owned() };
    let checked = parse(&[source]).unwrap_or_else(|faults| panic!("{}", faults[0]));
    assert_eq!(checked.warnings, []);
}
