//! Writes what lets bash, zsh and fish complete a call.

use super::names;
use crate::cli::invocation::Generated;
use crate::cli::options::{Kind, OPTIONS, Opt};
use std::fmt::Write as _;

/// What may stand as an option's value.
enum Values {
    None,
    Files,
    Hosts,
    Users,
    Processes,
    Words(Vec<&'static str>),
    Anything,
}

fn values(row: &Opt) -> Values {
    match row.arg {
        "" => Values::None,
        "FILE" => Values::Files,
        "HOST" => Values::Hosts,
        "USER" => Values::Users,
        "PID" => Values::Processes,
        "WHAT" => Values::Words(Generated::ALL.map(|(name, _)| name).to_vec()),
        words if words.contains('|') => Values::Words(words.split('|').collect()),
        _ => Values::Anything,
    }
}

fn rows() -> impl Iterator<Item = &'static Opt> {
    OPTIONS.iter().filter(|row| row.kind != Kind::Refused)
}

/// For `share/bash-completion/completions/licfwd`; needs no package of functions.
pub fn bash() -> String {
    let mut cases = String::new();
    let mut words = Vec::new();
    for row in rows() {
        let names: Vec<String> = names(row).collect();
        let action = match values(row) {
            Values::None => None,
            Values::Files => {
                Some("compopt -o filenames 2>/dev/null; words=$(compgen -f -- \"$cur\")".into())
            }
            Values::Hosts => Some("words=$(_licfwd_hosts)".into()),
            Values::Users => Some("words=$(compgen -u)".into()),
            Values::Processes => Some("words=$(ps -u \"$(id -u)\" -o pid= | tr -d ' ')".into()),
            Values::Words(words) => Some(format!("words='{}'", words.join("\n"))),
            Values::Anything => Some("return".into()),
        };
        if let Some(action) = action {
            let _ = writeln!(cases, "    {}) {action} ;;", names.join(" | "));
        }
        words.extend(names);
    }
    let words = words.join("\n");
    format!(
        r#"# bash completion for licfwd

_licfwd_hosts() {{
  awk 'tolower($1) == "host" {{ for (i = 2; i <= NF; i++) if ($i !~ /[*?!]/) print $i }}' ~/.ssh/config 2>/dev/null
  compgen -A hostname
}}

_licfwd() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}} words='' IFS=$'\n'
  local i
  COMPREPLY=()
  for ((i = 2; i < COMP_CWORD; i++)); do
    # A command stands behind the first -- after an operand.
    if [[ ${{COMP_WORDS[i]}} == -- && ${{COMP_WORDS[i - 1]}} != -* ]]; then
      if ((COMP_CWORD == i + 1)); then
        mapfile -t COMPREPLY < <(compgen -c -- "$cur")
      else
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
      fi
      return
    fi
  done
  case $prev in
{cases}    *)
      case $cur in
        -*) words='{words}' ;;
        *) words=$(_licfwd_hosts) ;;
      esac
      ;;
  esac
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}}

complete -F _licfwd licfwd
"#
    )
}

/// For `share/zsh/site-functions/_licfwd`.
pub fn zsh() -> String {
    let mut specs = String::new();
    for row in rows() {
        let text = row.text.replace('\'', "'\\''");
        let text = text.replace('[', "\\[").replace(']', "\\]");
        let value = match values(row) {
            Values::None => String::new(),
            Values::Files => ":file:_files".into(),
            Values::Hosts => ":host:_ssh_hosts".into(),
            Values::Users => ":user:_users".into(),
            Values::Processes => ":process:_pids".into(),
            Values::Words(words) => format!(":value:({})", words.join(" ")),
            Values::Anything => format!(":{}: ", row.arg.to_lowercase().replace(':', "\\:")),
        };
        for name in names(row) {
            let equals = match (name.len(), value.is_empty()) {
                (3.., false) => "=",
                _ => "",
            };
            let _ = writeln!(specs, "  '*{name}{equals}[{text}]{value}' \\");
        }
    }
    format!(
        r#"#compdef licfwd

# A command stands behind the first -- after an operand.
local i
for ((i = 3; i < CURRENT; i++)); do
  if [[ $words[i] == -- && $words[i-1] != -* ]]; then
    shift $i words
    ((CURRENT -= i))
    _normal
    return
  fi
done

_arguments -s -S \
{specs}  '1:gateway:_ssh_hosts' '*:target, host\:port or https\://host: '
"#
    )
}

/// For `share/fish/vendor_completions.d/licfwd.fish`.
pub fn fish() -> String {
    let mut text = String::from(
        r#"# fish completion for licfwd

# A command stands behind the first -- after an operand.
function __licfwd_command
    set -l words (commandline -opc) (commandline -ct)
    for i in (seq 3 (math (count $words) - 1))
        set -l before $words[(math $i - 1)]
        if test "$words[$i]" = --; and not string match -q -- '-*' $before
            string escape -- $words[(math $i + 1)..-1] | string join ' '
            return 0
        end
    end
    return 1
end

complete -c licfwd -f -n 'not __licfwd_command >/dev/null' -a '(__fish_print_hostnames)'
complete -c licfwd -n '__licfwd_command >/dev/null' -a '(complete -C (__licfwd_command))'
"#,
    );
    for row in rows() {
        text += "complete -c licfwd";
        if !row.short.is_empty() {
            let _ = write!(text, " -s {}", row.short);
        }
        if !row.long.is_empty() {
            let _ = write!(text, " -l {}", row.long);
        }
        text += &match values(row) {
            Values::None => String::new(),
            Values::Files => " -r -F".into(),
            Values::Hosts => " -x -a '(__fish_print_hostnames)'".into(),
            Values::Users => " -x -a '(__fish_complete_users)'".into(),
            Values::Processes => " -x -a '(__fish_complete_pids)'".into(),
            Values::Words(words) => format!(" -x -a '{}'", words.join(" ")),
            Values::Anything => " -x".into(),
        };
        let quoted = row.text.replace('\\', "\\\\").replace('\'', "\\'");
        let _ = writeln!(text, " -d '{quoted}'");
    }
    text
}
