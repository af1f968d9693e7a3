#!/bin/sh
# Start the exporter of the machine's figures: its maker's image and Debian have different names for it. Only what the
# dashboards show; a container sees the processors, memory and disks of its machine, and the file systems it is given.
set -eu
kinds='autofs|binfmt_misc|bpf|cgroup2?|configfs|debugfs|devpts|devtmpfs|fusectl|hugetlbfs|iso9660|mqueue|nsfs'
kinds="$kinds|proc|procfs|pstore|rpc_pipefs|securityfs|selinuxfs|squashfs|sysfs|tmpfs|tracefs"
exec "${NODE_EXPORTER:-node_exporter}" --collector.disable-defaults --collector.cpu --collector.loadavg \
    --collector.meminfo --collector.diskstats --collector.filesystem \
    --collector.filesystem.mount-points-exclude='^/(dev|proc|sys|run|etc|var/lib/(docker|containers)/.+)($|/)' \
    --collector.filesystem.fs-types-exclude="^($kinds)\$" "$@"
