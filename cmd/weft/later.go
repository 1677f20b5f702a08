package main

import (
	"github.com/spf13/cobra"
)

// What a script written for Weave Net, or a reader of weft's plans, may type and
// weft does not know. It is answered by the reason or the way around, not as if
// it were a slip of the finger.

const byHand = "by hand: docker run $(weft dns-args) …, then weft attach CONTAINER"

// laterVerbs are verbs that are to come, and what does their work until then.
var laterVerbs = map[string]string{
	"expose":  "this host has no address on the mesh: reach a container from another one, by its name or the address that weft ps shows",
	"hide":    "there is nothing to hide: this host has no address on the mesh",
	"env":     "there is no API proxy to point Docker at; " + byHand,
	"config":  "there is no API proxy to point Docker at; " + byHand,
	"doctor":  "weft status shows what the router waits for, and weft status connections why a tunnel is not up",
	"explain": "weft status connections shows the tunnels, weft status dns the names, weft ps the addresses",
	"evict":   "a host leaves when weft reset is run on it",
	"top":     "weft report shows the bytes of each tunnel; launch --metrics-addr serves them to Prometheus",
	"client":  "weft launch makes this machine a host of the mesh",
}

// laterFlags are flags of launch that are to come.
var laterFlags = map[string]string{
	"proxy":                "use docker run $(weft dns-args) … and weft attach CONTAINER",
	"plugin":               "use docker run $(weft dns-args) … and weft attach CONTAINER",
	"H":                    "there is no API proxy to listen for; use docker run $(weft dns-args) … and weft attach CONTAINER",
	"without-dns":          "weft attach --without-dns registers no name; launch --no-dns serves none",
	"hostname-from-label":  "weft dns-add CONTAINER -h NAME gives a name of your choice",
	"hostname-match":       "weft dns-add CONTAINER -h NAME gives a name of your choice",
	"hostname-replacement": "weft dns-add CONTAINER -h NAME gives a name of your choice",
	"rewrite-inspect":      "weft ps CONTAINER shows its addresses",
	"no-default-ipalloc":   "containers get an address from weft attach only: weft attach ip:CIDR CONTAINER allocates none",
}

// weaveFlags are flags of Weave Net that weft does not have, and why.
var weaveFlags = map[string]string{
	"trusted-subnets": "weft encrypts everything, at kernel speed: there is nothing to exempt from it",
	"no-fastdp":       "weft has one data plane, WireGuard, which is encrypted and as fast as the kernel allows; --datapath chooses between the kernel's and a userspace one",
	"no-restart":      "restarting weft is the matter of systemd or Docker: run weft launch --foreground under it",
	"awsvpc":          "weft does not write cloud route tables: its tunnels work inside a VPC as they do anywhere else",
}

// missingVerb is the answer to a verb that is to come; nil for any other name.
func missingVerb(cmd *cobra.Command, name string) error {
	if hint, ok := laterVerbs[name]; ok && !cmd.HasParent() {
		return usageHint(cmd, hint, "weft does not have %s yet", name)
	}
	return nil
}

// missingFlag is the answer to a flag that is to come, or that Weave had; name
// is without its dashes.
func missingFlag(cmd *cobra.Command, name string) error {
	if why, ok := weaveFlags[name]; ok {
		return usageHint(cmd, why, "weft has no --%s", name)
	}
	if hint, ok := laterFlags[name]; ok && cmd.Name() == "launch" {
		return usageHint(cmd, hint, "weft does not have %s yet", dashed(name))
	}
	return nil
}

func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}
