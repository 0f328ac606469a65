//! What is wrong with a policy file, with the line.

use std::fmt;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The policy is refused.
    Error,
    /// The policy works, but hardly as it was meant.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One fault or warning.
///
/// Its [`Display`](fmt::Display) takes several lines and ends without a newline:
///
/// ```text
/// policy.toml:14:1: error: unknown key "sevice" in a rule; did you mean "service"?
///     sevice = "tcp/443"
///     ^^^^^^
///   expected: one of "name", "from", …
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The file, as it was named to us.
    pub file: String,
    /// The line, from 1; 0 if it is about the file as a whole.
    pub line: u32,
    /// The column in characters, from 1; 0 if it is about the file as a whole.
    pub column: u32,
    /// How many characters of the line it is about, at least 1.
    pub width: u32,
    /// The line itself.
    pub line_text: String,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub expected: Option<String>,
}

impl Diagnostic {
    /// A fault of the file as a whole, such as one that cannot be read.
    #[must_use]
    pub fn of_file(file: &str, message: String) -> Self {
        Self {
            severity: Severity::Error,
            file: file.to_owned(),
            line: 0,
            column: 0,
            width: 1,
            line_text: String::new(),
            message,
            expected: None,
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { severity, file, message, .. } = self;
        if self.line == 0 {
            write!(f, "{file}: {severity}: {message}")?;
        } else {
            write!(f, "{file}:{}:{}: {severity}: {message}", self.line, self.column)?;
            let before = self.column.saturating_sub(1) as usize;
            // A tab stays a tab below the line, so that the marker lines up whatever its width.
            let indent: String = self.line_text.chars().take(before).map(|c| if c == '\t' { c } else { ' ' }).collect();
            write!(f, "\n    {}\n    {indent}{}", printable(&self.line_text), "^".repeat(self.width as usize))?;
        }
        match &self.expected {
            Some(expected) => write!(f, "\n  expected: {expected}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Diagnostic {}

/// The text without what could take over a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}
