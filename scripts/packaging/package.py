"""Spack recipe of licfwd: keep it in packages/licfwd of a repository, the archive beside it."""

import os

from spack.package import *

# The gateway of this site, or a list of them: jobs then call licfwd LICENSE_SERVER:PORT.
GATEWAY = ""


class Licfwd(Package):
    """Forwards license servers into a batch job through an SSH gateway."""

    homepage = "https://example.org/licfwd"
    url = f"file://{os.path.dirname(__file__)}/licfwd-@VERSION@-x86_64-linux.tar.gz"

    license("MIT OR Apache-2.0")

    version("@VERSION@", sha256="@SHA256@")

    requires("platform=linux", msg="the archive holds a binary for Linux")
    requires("target=x86_64:", msg="the archive holds a binary for x86-64")

    def install(self, spec, prefix):
        install_tree("bin", prefix.bin)
        install_tree("share", prefix.share)

    def setup_run_environment(self, env):
        if GATEWAY:
            env.set("LICFWD_GATEWAY", GATEWAY)

    @run_after("install")
    @on_package_attributes(run_tests=True)
    def check_it_runs(self):
        Executable(self.prefix.bin.licfwd)("--version")
