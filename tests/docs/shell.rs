//! Shell text, cut into simple commands: as much of the grammar as documents use.

/// The simple commands of a text, in order, each as its words: what is behind a pipe, in `$(…)`, behind `&&`, `;` and `&` is a
/// command of its own; assignments before a command, redirections and comments are left out, quotes are taken off.
pub(crate) fn commands(text: &str) -> Vec<Vec<String>> {
    let text = text.replace("\\\n", " ");
    let mut found = Vec::new();
    scan(&mut text.chars().peekable(), None, &mut found);
    for command in &mut found {
        while command.first().is_some_and(|word| is_assignment(word)) {
            command.remove(0);
        }
    }
    found.retain(|command| !command.is_empty());
    found
}

fn is_assignment(word: &str) -> bool {
    let name = word.split_once('=').map(|(name, _)| name);
    name.is_some_and(|name| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
}

type Letters<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// Reads up to `end` (of a substitution) or the text's end.
fn scan(letters: &mut Letters<'_>, end: Option<char>, found: &mut Vec<Vec<String>>) {
    let mut command = Vec::new();
    let mut word: Option<String> = None;
    let mut redirected = false;
    macro_rules! end_word {
        () => {
            if let Some(word) = word.take()
                && !std::mem::take(&mut redirected)
            {
                command.push(word);
            }
        };
    }
    while let Some(letter) = letters.next() {
        match letter {
            _ if Some(letter) == end => break,
            '\'' => {
                let text: String = letters.by_ref().take_while(|c| *c != '\'').collect();
                word.get_or_insert_default().push_str(&text);
            }
            '"' => {
                let inside = word.get_or_insert_default();
                while let Some(letter) = letters.next() {
                    match letter {
                        '"' => break,
                        '\\' => inside.extend(letters.next()),
                        '$' if letters.next_if_eq(&'(').is_some() => {
                            scan(letters, Some(')'), found);
                            inside.push_str("$(…)");
                        }
                        other => inside.push(other),
                    }
                }
            }
            '\\' => word.get_or_insert_default().extend(letters.next()),
            '$' if letters.next_if_eq(&'(').is_some() => {
                scan(letters, Some(')'), found);
                word.get_or_insert_default().push_str("$(…)");
            }
            '#' if word.is_none() => while letters.next_if(|c| *c != '\n').is_some() {},
            '<' | '>' => {
                // `2>file`: the number belongs to it.
                if word
                    .as_ref()
                    .is_some_and(|word| word.chars().all(|c| c.is_ascii_digit()))
                {
                    word = None;
                }
                end_word!();
                while letters.next_if(|c| ['>', '&'].contains(c)).is_some() {}
                redirected = true;
            }
            '|' | '&' | ';' | '\n' | '(' | ')' | '{' | '}' if word.is_none() || !['{', '}'].contains(&letter) => {
                end_word!();
                found.extend(Some(std::mem::take(&mut command)).filter(|command| !command.is_empty()));
            }
            letter if letter.is_whitespace() => end_word!(),
            other => word.get_or_insert_default().push(other),
        }
    }
    end_word!();
    found.extend(Some(command).filter(|command| !command.is_empty()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_into_its_simple_commands() {
        let text = "a --b 'c d' | e \"f $(g h)\" > i && j & # k\nL=m n \\\n  o 2>/dev/null; eval \"$(p q)\"\n(cd r && s) <t u{v}\n";
        let expected: Vec<Vec<&str>> = vec![
            vec!["a", "--b", "c d"],
            vec!["g", "h"],
            vec!["e", "f $(…)"],
            vec!["j"],
            vec!["n", "o"],
            vec!["p", "q"],
            vec!["eval", "$(…)"],
            vec!["cd", "r"],
            vec!["s"],
            vec!["u{v}"],
        ];
        assert_eq!(commands(text), expected);
    }
}
