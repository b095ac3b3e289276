//! A Kerberos realm on loopback and a gateway in it, thrown away afterwards.

use super::gateway::{account, give_to_account};
use super::programs::missing;
use super::{Gateway, Job, LIMIT, Overlay, Running, Scratch, free_port, wait_until};

/// What it consists of (Debian: krb5-kdc, krb5-admin-server, krb5-user).
const PROGRAMS: [&str; 4] = ["krb5kdc", "kdb5_util", "kadmin.local", "kinit"];

/// A KDC with a directory and a port of its own. Needs no special rights; nothing
/// in /etc or /var is read or written.
pub struct Kerberos {
    /// The directory and the environment of the KDC.
    home: Job,
    kdc: Running,
}

impl Kerberos {
    /// Starts it, and a gateway that takes its tickets and nothing else; the
    /// gateway's clients ([`Job::licfwd`]) have one.
    ///
    /// # Errors
    /// Why this machine cannot have one.
    pub fn start() -> Result<(Kerberos, Gateway), String> {
        let (home, server) = (Job::new(), Scratch::new());
        check(&home)?;
        let (view, kdc) = start_realm(&home, &server);
        let (user, keytab) = (&account().name, server.file("keytab"));
        for (principal, file) in
            [("host/127.0.0.1", keytab.clone()), (user, home.directory().file("keytab"))]
        {
            let export = format!("ktadd -k {} -norandkey {principal}", file.display());
            for query in [format!("addprinc -randkey {principal}"), export] {
                run(&home, &view, "kadmin.local", &["-q", &query]);
            }
        }
        run(&home, &view, "kinit", &["-k", "-t", "keytab", user]);

        give_to_account(&keytab);
        let mut overlay = view.clone();
        overlay.set("KRB5_KTNAME", keytab.display());
        // Else it would be a file in /var/tmp that stays behind.
        overlay.set("KRB5RCACHENAME", "none:");
        let lines =
            ["GSSAPIAuthentication yes", "GSSAPIStrictAcceptorCheck no", "PubkeyAuthentication no"];
        let client_lines = ["GSSAPIAuthentication yes"];
        let gateway = Gateway::overlaid(server, [overlay, view], &lines, &client_lines);
        match gateway.log().contains("Unsupported option GSSAPI") {
            true => Err("sshd knows no GSSAPI".into()),
            false => Ok((Kerberos { home, kdc }, gateway)),
        }
    }
}

impl Drop for Kerberos {
    fn drop(&mut self) {
        self.home.end();
        wait_until("the KDC has ended", LIMIT, || self.kdc.has_ended());
    }
}

fn check(home: &Job) -> Result<(), String> {
    let missing = missing(&PROGRAMS);
    if !missing.is_empty() {
        return Err(format!("not installed: {}", missing.join(", ")));
    }
    let words = ["-F", "none", "-G", "-o", "GSSAPIAuthentication=yes", "gw"];
    let resolved = home.run(home.command("ssh").args(words)).stdout;
    match resolved.contains("gssapiauthentication yes") {
        true => Ok(()),
        false => Err("ssh knows no GSSAPI".into()),
    }
}

/// Makes a realm and starts its KDC; returns where programs find both, and the KDC.
fn start_realm(home: &Job, server: &Scratch) -> (Overlay, Running) {
    let directory = home.directory();
    let mut view = Overlay::default();
    view.set("KRB5_CONFIG", server.file("krb5.conf").display());
    view.set("KRB5_KDC_PROFILE", directory.file("kdc.conf").display());
    view.set("KRB5CCNAME", directory.file("ticket").display());
    for attempt in 0..10 {
        configure(home, server, free_port());
        if attempt == 0 {
            run(home, &view, "kdb5_util", &["create", "-s", "-P", "master"]);
        }
        let mut command = home.wrap(view.command("krb5kdc".as_ref(), None));
        let mut kdc = home.spawn(command.arg("-n"));
        let mut ended = false;
        wait_until("the KDC serves", LIMIT, || {
            ended = kdc.has_ended();
            ended || directory.read("log").contains("commencing operation")
        });
        if !ended {
            return (view, kdc);
        }
    }
    panic!("no KDC after ten ports");
}

fn configure(home: &Job, server: &Scratch, port: u16) {
    let place = home.directory().path().display();
    // No name server is asked, and nobody's home is looked into.
    let text = format!(
        "[libdefaults]\n\
         default_realm = LICFWD.TEST\n\
         dns_lookup_kdc = false\n\
         dns_lookup_realm = false\n\
         dns_canonicalize_hostname = false\n\
         rdns = false\n\
         udp_preference_limit = 1\n\
         k5login_directory = {}/k5login\n\
         [realms]\n\
         LICFWD.TEST = {{\n\
         kdc = 127.0.0.1:{port}\n\
         }}\n",
        server.path().display()
    );
    give_to_account(&server.write("krb5.conf", &text));
    let text = format!(
        "[realms]\n\
         LICFWD.TEST = {{\n\
         database_name = {place}/principal\n\
         key_stash_file = {place}/stash\n\
         acl_file = {place}/acl\n\
         kdc_listen = 127.0.0.1:{port}\n\
         kdc_tcp_listen = 127.0.0.1:{port}\n\
         }}\n\
         [logging]\n\
         kdc = FILE:{place}/log\n"
    );
    home.directory().write("kdc.conf", &text);
}

/// Runs one of the realm's tools, which must succeed.
fn run(home: &Job, view: &Overlay, program: &str, arguments: &[&str]) {
    let mut command = home.wrap(view.command(program.as_ref(), None));
    let outcome = home.run(command.args(arguments));
    assert_eq!(outcome.code, 0, "{program} {arguments:?}: {outcome:?}");
}
