//! How are several addresses given in one setting? As URLs with a comma between: `amqp://u:p@a/%2f,amqp://u:p@b/%2f`. It
//! must not know what a URL means.

/// The URLs of a list, without the blanks around them.
///
/// A comma is allowed inside a URL, a password for one, so only one that a scheme follows parts two URLs.
pub fn split_urls(list: &str) -> Vec<&str> {
    let mut urls = Vec::new();
    let mut start = 0;
    for (comma, _) in list.match_indices(',') {
        if starts_with_scheme(list[comma + 1..].trim_start()) {
            urls.push(list[start..comma].trim());
            start = comma + 1;
        }
    }
    urls.push(list[start..].trim());
    urls
}

/// Whether a text begins with a scheme (RFC 3986, 3.1) and `://`.
fn starts_with_scheme(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, _)| {
        scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_url_is_a_list_of_one() {
        assert_eq!(split_urls(" amqp://u:p@h/%2f "), ["amqp://u:p@h/%2f"]);
        assert_eq!(split_urls(""), [""]);
    }

    #[test]
    fn only_a_comma_before_a_scheme_parts_two_urls() {
        assert_eq!(
            split_urls("amqp://u:a,b@h1/%2f, amqps://u:a,b@h2:5671/%2f,amqp://h3"),
            ["amqp://u:a,b@h1/%2f", "amqps://u:a,b@h2:5671/%2f", "amqp://h3"]
        );
        // Left to whoever reads the URL to refuse.
        assert_eq!(split_urls("amqp://h,nonsense"), ["amqp://h,nonsense"]);
        assert_eq!(split_urls("amqp://h1,,amqp://h2"), ["amqp://h1,", "amqp://h2"]);
    }
}
