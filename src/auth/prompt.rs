//! Asks a person.

use crate::log::one_line;
use ssh2::{KeyboardInteractivePrompt, Prompt};
use std::process::Command;

/// Asks a person, on a terminal or through SSH_ASKPASS.
pub trait Prompter: Send {
    /// The answer to `prompt`, shown while it is typed only with `echo`;
    /// `None`: the person gave up.
    fn ask(&mut self, prompt: &str, echo: bool) -> Option<String>;

    /// Lets an ssh that is about to be started ask the same person; whether it can.
    fn lend(&self, _ssh: &mut Command) -> bool {
        false
    }
}

/// A person who hears which of several gateways asks.
pub struct Named<'a> {
    /// Who asks.
    pub prompter: &'a mut dyn Prompter,
    /// The gateway's name, where there are several.
    pub name: Option<&'a str>,
}

impl Prompter for Named<'_> {
    fn ask(&mut self, prompt: &str, echo: bool) -> Option<String> {
        match self.name {
            Some(name) => self.prompter.ask(&format!("gateway {name}: {prompt}"), echo),
            None => self.prompter.ask(prompt, echo),
        }
    }

    fn lend(&self, ssh: &mut Command) -> bool {
        self.prompter.lend(ssh)
    }
}

/// Carries a gateway's questions to a person.
pub struct Dialogue<'a, 'p> {
    prompter: &'a mut (dyn Prompter + 'p),
    who: String,
    /// Something was asked.
    pub asked: bool,
    /// The person did not answer.
    pub gave_up: bool,
}

impl<'a, 'p> Dialogue<'a, 'p> {
    /// `who` (`user@host`) stands before each question, as in ssh.
    pub fn new(prompter: &'a mut (dyn Prompter + 'p), who: String) -> Dialogue<'a, 'p> {
        Dialogue { prompter, who, asked: false, gave_up: false }
    }

    /// Asks one question.
    pub fn ask(&mut self, prompt: &str, echo: bool) -> Option<String> {
        self.asked = true;
        let answer = self.prompter.ask(prompt, echo);
        self.gave_up |= answer.is_none();
        answer
    }
}

impl KeyboardInteractivePrompt for Dialogue<'_, '_> {
    fn prompt<'a>(&mut self, _: &str, words: &str, prompts: &[Prompt<'a>]) -> Vec<String> {
        let words = words.trim();
        let mut answers = Vec::new();
        for (at, prompt) in prompts.iter().enumerate() {
            let intro = if at == 0 && !words.is_empty() {
                format!("({}) {words} {}", self.who, prompt.text)
            } else {
                format!("({}) {}", self.who, prompt.text)
            };
            match self.ask(&one_line(&intro), prompt.echo) {
                Some(answer) => answers.push(answer),
                // libssh2 cannot stop here; the rest goes out empty.
                None => break,
            }
        }
        answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Person(Vec<String>, Vec<&'static str>);

    impl Prompter for Person {
        fn ask(&mut self, prompt: &str, echo: bool) -> Option<String> {
            self.0.push(format!("{prompt}{}", if echo { "" } else { "*" }));
            self.1.pop().map(str::to_owned)
        }
    }

    #[test]
    fn every_question_of_a_gateway_is_asked_on_one_line() {
        let prompt = |text: &str, echo| Prompt { text: text.to_owned().into(), echo };
        let mut person = Person(Vec::new(), vec!["2", "1"]);
        let mut dialogue = Dialogue::new(&mut person, "a@b".into());
        let prompts = [prompt("Password: ", false), prompt("Code\u{1b}: ", true)];
        assert_eq!(dialogue.prompt("a", " Two\nsteps ", &prompts), ["1", "2"]);
        assert!(dialogue.asked && !dialogue.gave_up);
        assert!(dialogue.prompt("a", "", &prompts).is_empty() && dialogue.gave_up);
        let asked = ["(a@b) Two steps Password: *", "(a@b) Code : ", "(a@b) Password: *"];
        assert_eq!(person.0, asked);
    }
}
