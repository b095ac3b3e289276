//! The form of a variable's value (`--format`); pure.

use crate::target::Parsed;

/// The value of the variable, `{port}@{host}` unless `--format` says otherwise; where web
/// servers stand behind it, `http://{host}:{port}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(String);

impl Default for Template {
    fn default() -> Template {
        Template("{port}@{host}".to_owned())
    }
}

impl Template {
    /// As software wants its proxy.
    pub fn of_proxy() -> Template {
        Template("http://{host}:{port}".to_owned())
    }

    /// Reads `{port}`, `{host}`, letters, digits and `@ : . , / _ - + % =`: the
    /// value stands unquoted in a statement that a shell evaluates.
    ///
    /// # Errors
    /// What is allowed.
    pub fn parse(text: &str) -> Parsed<Template> {
        // A stand-in instead of nothing: "{ho{port}st}" must not become a field.
        let literal = text.replace("{port}", "0").replace("{host}", "0");
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"@:.,/_-+%=".contains(&b);
        if !literal.bytes().all(allowed) {
            Err("expected {port}, {host}, letters, digits and @ : . , / _ - + % = only".to_owned())
        } else if !text.contains("{port}") {
            Err("expected {port} in it".to_owned())
        } else if literal.starts_with('=') || literal.contains(":=") {
            Err("zsh would look for a command after = at the start or after a colon".to_owned())
        } else {
            Ok(Template(text.to_owned()))
        }
    }

    /// The value for one server.
    pub fn render(&self, port: u16, host: &str) -> String {
        let text = self.0.replace("{port}", &port.to_string());
        text.replace("{host}", host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates() {
        assert_eq!(Template::default().render(5, "localhost"), "5@localhost");
        for (text, value) in [
            ("{port}", "5"),
            ("{host}:{port}", "h:5"),
            ("x={port}@{host},{port}%+-_/.", "x=5@h,5%+-_/."),
        ] {
            assert_eq!(Template::parse(text).unwrap().render(5, "h"), value);
        }
        for text in [
            "",
            "{host}",
            "{port",
            "{port} ",
            "{Port}{port}",
            "{ho{port}st}",
            "{po{host}rt}{port}",
            "'{port}'",
            "$(id){port}",
            "{port};",
            "{port}\n",
            "~{port}",
            "={port}",
            "{port}:=x",
        ] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }
}
