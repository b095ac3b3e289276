-- Lmod module file of licfwd @VERSION@: unpack the archive to SOFTWARE/licfwd/@VERSION@, put this file into
-- MODULEPATH as licfwd/@VERSION@.lua, and set the next line.
local root = "/opt/licfwd/@VERSION@"

whatis("Name: licfwd")
whatis("Version: @VERSION@")
whatis("Description: forwards license servers into a batch job through an SSH gateway")
help([[
One line in a job script, after every module load:

    lic=$(licfwd GATEWAY LICENSE_SERVER:PORT) && eval "$lic" || exit

At a prompt, where kill $LICPID ends the tunnel, or the login session does:

    eval $(licfwd --pid-var LICPID GATEWAY LICENSE_SERVER:PORT)

Where LICFWD_GATEWAY is set, GATEWAY may be left out.
What to run when it does not work: licfwd --check GATEWAY LICENSE_SERVER:PORT
More: man licfwd
]])

-- The gateway of this site, or a list of them: jobs then call licfwd LICENSE_SERVER:PORT.
local gateway = ""
if gateway ~= "" then
    setenv("LICFWD_GATEWAY", gateway)
end

prepend_path("PATH", pathJoin(root, "bin"))
prepend_path("MANPATH", pathJoin(root, "share/man"))
prepend_path("XDG_DATA_DIRS", pathJoin(root, "share"))
-- An empty entry keeps the system's own manuals and data.
append_path("MANPATH", "")
append_path("XDG_DATA_DIRS", "/usr/local/share:/usr/share")
