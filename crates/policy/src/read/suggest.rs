//! "Did you mean".

/// Longer words are not worth the square of their length.
const LONGEST: usize = 64;

/// The candidate nearest to a misspelt word, if one is near.
pub(crate) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<String> {
    let word: Vec<char> = word.chars().take(LONGEST + 1).flat_map(char::to_lowercase).collect();
    if word.len() > LONGEST {
        return None;
    }
    let allowed = (word.len() / 3).max(1);

    candidates
        .into_iter()
        .filter_map(|candidate| {
            let letters: Vec<char> = candidate.chars().take(LONGEST + 1).flat_map(char::to_lowercase).collect();
            // The beginning of a longer word is near to it: `echo` to `echo-request`.
            if word.len() >= 3 && letters.starts_with(&word) {
                return Some((1, candidate));
            }
            if letters.len().abs_diff(word.len()) > allowed {
                return None;
            }
            let distance = edit_distance(&word, &letters);
            // A word that has nothing in common with another is not near it, however short.
            (distance <= allowed && distance < word.len()).then_some((distance, candidate))
        })
        .min()
        .map(|(_, candidate)| candidate.to_owned())
}

/// Insertions, deletions, replacements and swaps of neighbours that turn one word into the other.
fn edit_distance(a: &[char], b: &[char]) -> usize {
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = Vec::with_capacity(b.len() + 1);
        row.push(i + 1);
        for (j, y) in b.iter().enumerate() {
            let mut best = (last[j] + usize::from(x != y)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i - 1] == *y && b[j - 1] == *x {
                best = best.min(before_last[j - 1] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        let keys = ["source", "service", "destination"];
        assert_eq!(nearest("srouce", keys).as_deref(), Some("source"));
        assert_eq!(nearest("Service", keys).as_deref(), Some("service"));
        assert_eq!(nearest("sources", keys).as_deref(), Some("source"));
        assert_eq!(nearest("dest", keys).as_deref(), Some("destination"));
        assert_eq!(nearest("colour", keys), None);
        assert_eq!(nearest("", keys), None);
        assert_eq!(nearest("x", ["y"]), None);
        assert_eq!(nearest(&"s".repeat(100_000), keys), None);
    }
}
