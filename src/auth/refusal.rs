//! Words why a login failed, and what to do about it; pure.

use super::login_error::LoginError;
use crate::config::Gateway;
use crate::error::Code;
use crate::log::one_line;

/// What a login came to.
pub struct Refusal<'a> {
    /// Where.
    pub gateway: &'a Gateway,
    /// The methods that the gateway offered last.
    pub offered: &'a [String],
    /// It has said so: else that is a guess.
    pub asked: bool,
    /// Keys and methods that the gateway has judged, by name.
    pub tried: &'a [String],
    /// Methods that succeeded as one step of several.
    pub accepted: &'a [&'static str],
    /// What could not be used, as `name: why`.
    pub flaws: Vec<&'a str>,
    /// An identity that the user named cannot be read.
    pub unreadable: bool,
    /// Somebody was there to be asked.
    pub attended: bool,
    /// There is something with which ssh may do more: a key on a FIDO device, a
    /// certificate, an agent (whose keys can be meant for ssh alone, `ssh-add -h`).
    pub only_ssh_signs: bool,
}

/// Homes are shared inside a cluster, so that a key made here opens the gateway.
const KEY_FOR_THE_CLUSTER: &str =
    "; make a key for use inside the cluster: man licfwd, section KEYS";

/// Where a key is to come from: the recipe, or what that has made already.
pub fn key_advice(gateway: &Gateway) -> String {
    let files = &gateway.login.identity_files;
    let recipes = files.first().map(|file| file.with_file_name("id_licfwd"));
    match recipes.filter(|ours| ours.exists() && !files.iter().any(|file| file.exists())) {
        Some(ours) => format!("{} is there: add -i {0}", ours.display()),
        None => "how to make a key that it takes: man licfwd, section KEYS".to_owned(),
    }
}

impl Refusal<'_> {
    fn step(&self) -> String {
        let gateway = self.gateway;
        let (name, user, host, port) = (&gateway.name, &gateway.user, &gateway.host, gateway.port);
        format!("login at {name} ({user}@{host}, port {port})")
    }

    /// No answer within `limit` milliseconds.
    pub fn timed_out(&self, limit: u32) -> LoginError {
        let (step, seconds) = (self.step(), limit.div_ceil(1000));
        let text = format!("{step}: timed out, no answer within {seconds} s");
        LoginError::new(Code::GatewayDown, one_line(&text), false)
    }

    /// The connection ended. Trying again could lock the account.
    pub fn closed(&self) -> LoginError {
        let mut text = format!("{}: the gateway closed the connection", self.step());
        if !self.tried.is_empty() {
            text += &format!(" after {}", self.tried.join(", "));
            // Several keys and nothing typed (a method's name has no blank).
            if self.tried.len() > 1 && self.tried.iter().all(|name| name.contains(' ')) {
                text += "; if those were too many for it (MaxAuthTries), ";
                text += "name one key: -i FILE -o IdentitiesOnly=yes";
            }
        }
        text += &(self.flaws() + &self.gateway.master());
        LoginError::new(Code::Refused, one_line(&text), false)
    }

    /// libssh2 gave up, not the gateway.
    pub fn unreadable(&self) -> LoginError {
        let text = format!(
            "{}: libssh2 cannot read what the gateway sends, such as a banner of more than 34,000 bytes",
            self.step()
        );
        LoginError::new(Code::Config, one_line(&text), true)
    }

    fn offers(&self, method: &str) -> bool {
        self.offered.iter().any(|o| o.starts_with(method))
    }

    /// Whether ssh itself would try a way that libssh2 has not, and that the gateway
    /// offers, or was not asked about.
    fn is_for_ssh(&self) -> bool {
        let wished = &self.gateway.login.preferred_methods;
        let may = |method: &str| {
            (self.offers(method) || !self.asked)
                && (wished.is_empty() || wished.iter().any(|w| w.starts_with(method)))
        };
        (may("hostbased") && self.gateway.login.hostbased)
            || (may("gssapi") && self.gateway.login.gssapi)
            || (may("publickey") && self.only_ssh_signs && self.gateway.login.pubkey)
    }

    /// No method worked.
    pub fn refused(&self) -> LoginError {
        let mut text = format!("{}: refused: ", self.step());
        text += &match self.tried {
            [] => self.no_key(),
            tried => format!("tried {}", tried.join(", ")),
        };
        if !self.accepted.is_empty() {
            let accepted = self.accepted.join(" and ");
            text += &format!("; the gateway took {accepted} and wants more");
        }
        text += &match self.offered {
            _ if !self.asked => String::new(),
            [] => "; the gateway offers no method".to_owned(),
            offered => format!("; the gateway offers {}", offered.join(", ")),
        };
        text += &self.flaws();
        if !self.attended && (self.offers("password") || self.offers("keyboard-interactive")) {
            text += "; nobody is here to type a password or a second factor";
        }
        let only_ssh = self.is_for_ssh();
        if self.offers("hostbased") || self.offers("gssapi") {
            text += "; libssh2 cannot log in by hostbased or gssapi";
            if !only_ssh {
                text += ", ssh itself not without HostbasedAuthentication or GSSAPIAuthentication in its configuration";
            }
            if self.offers("publickey") {
                text += KEY_FOR_THE_CLUSTER;
            }
        }
        text += &(self.copy_key() + &self.gateway.master());
        let code = match self.unreadable {
            true => Code::Config,
            false => Code::Refused,
        };
        LoginError::new(code, one_line(&text), only_ssh)
    }

    /// Nothing was offered: names the files that are not there, which on a
    /// compute node can be the whole home directory.
    fn no_key(&self) -> String {
        let files = &self.gateway.login.identity_files;
        if files.is_empty() || files.iter().any(|file| file.exists()) {
            return "no usable key".to_owned();
        }
        let advice = key_advice(self.gateway);
        let names: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
        let names = match names.as_slice() {
            all if all.len() < 3 => all.join(", "),
            all => format!("{} and {} other names", all[0], all.len() - 1),
        };
        format!("no usable key: none of these files exists on this node: {names}; {advice}")
    }

    /// What to do about a key file that the gateway does not take.
    fn copy_key(&self) -> String {
        let name = |tried: &String| {
            Some(
                tried.strip_prefix("key ")?.split(" (").next()?.trim_end_matches(".pub").to_owned(),
            )
        };
        let Some(key) = self.tried.iter().find_map(name) else {
            return String::new();
        };
        format!(
            "; a key that the gateway is to know: ssh-copy-id -i {key}.pub {}; there only its owner may write to \
             the home directory, ~/.ssh and ~/.ssh/authorized_keys (chmod go-w)",
            self.gateway.name
        )
    }

    fn flaws(&self) -> String {
        match self.flaws.as_slice() {
            [] => String::new(),
            flaws => format!("; unusable: {}", flaws.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Ssh;
    use crate::config::tests::gateway;

    fn owned(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn a_refusal_tells_whether_ssh_may_get_in() {
        for (config, offered, only_ssh_signs, may) in [
            ("", "gssapi-with-mic", false, false),
            ("gssapiauthentication yes", "gssapi-with-mic", false, true),
            (
                "gssapiauthentication yes\npreferredauthentications publickey",
                "gssapi-with-mic",
                false,
                false,
            ),
            ("gssapiauthentication yes", "hostbased", false, false),
            ("hostbasedauthentication yes", "hostbased", false, true),
            ("", "publickey", true, true),
            ("", "password", true, false),
            // It was not asked.
            ("gssapiauthentication yes", "", false, true),
            ("", "", false, false),
        ] {
            let refusal = Refusal {
                gateway: &gateway(config),
                offered: &owned(&[offered]),
                asked: !offered.is_empty(),
                tried: &[],
                accepted: &[],
                flaws: Vec::new(),
                unreadable: false,
                attended: false,
                only_ssh_signs,
            };
            assert_eq!(refusal.refused().ssh == Ssh::MayGetIn, may, "{config}, {offered}");
            // More would lock an account.
            assert_eq!(refusal.closed().ssh, Ssh::WouldFail, "{config}, {offered}");
        }
    }

    #[test]
    fn a_refusal_says_what_and_how() {
        let mut gateway = gateway("");
        let offered = owned(&["publickey", "hostbased", "password"]);
        let tried = owned(&["key /a", "agent key b\n (ssh-rsa)"]);
        let flaw = "key /c: encrypted";
        let mut refusal = Refusal {
            gateway: &gateway,
            offered: &offered,
            asked: true,
            tried: &tried,
            accepted: &[],
            flaws: vec![flaw],
            unreadable: false,
            attended: false,
            only_ssh_signs: false,
        };
        let error = refusal.refused();
        assert_eq!(error.error.code, Code::Refused);
        // ssh itself would not try hostbased here either.
        assert_eq!(error.ssh, Ssh::WouldFail);
        let text = error.error.to_string();
        for part in [
            "login at bob@gw (bob@gw.example, port 2222): refused: tried key /a, ",
            "agent key b  (ssh-rsa); the gateway offers publickey, hostbased, password; ",
            "unusable: key /c: encrypted; nobody is here",
            "cannot log in by hostbased or gssapi, ssh itself not without",
            "in its configuration; make a key",
            "section KEYS; a key that the gateway is to know: ssh-copy-id -i /a.pub bob@gw; there only",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(refusal.closed().error.to_string().contains("MaxAuthTries"));
        refusal.unreadable = true;
        assert_eq!(refusal.refused().error.code, Code::Config);
        assert_eq!(refusal.closed().error.code, Code::Refused);
        assert_eq!(refusal.timed_out(1500).error.code, Code::GatewayDown);
        refusal.tried = &tried[..1];
        assert!(!refusal.closed().error.to_string().contains("MaxAuthTries"));
        refusal.tried = &[];
        assert!(refusal.refused().error.to_string().contains("no usable key"));

        gateway.control_path = Some("/run/mux".into());
        let refusal = Refusal {
            gateway: &gateway,
            offered: &offered[2..],
            asked: true,
            tried: &[],
            accepted: &["publickey"],
            flaws: Vec::new(),
            unreadable: false,
            attended: true,
            only_ssh_signs: false,
        };
        let text = refusal.refused().error.to_string();
        assert!(text.contains("the gateway took publickey and wants more"));
        assert!(
            text.ends_with("; ssh itself would reuse the connection at /run/mux, licfwd cannot")
        );
        assert!(!text.contains("nobody") && !text.contains("make a key"));
    }
}
