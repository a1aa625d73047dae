// Loaded into npm before npm itself (node --require): the fetch starts no process, loads no native code, and reaches
// only public addresses and the hosts that npm's own configuration names.
//
// `--ignore-scripts` keeps npm from running what a package wants to run. A dependency on a repository would still make
// npm run git, and npm again inside of what git brought. Both need a new process, and here there is none: the fetch
// runs no package code. What a package names as an address must not reach what only this host can reach (cloud
// metadata, the platform itself).

"use strict";

const child = require("node:child_process");
const dns = require("node:dns");
const net = require("node:net");
const { syncBuiltinESMExports } = require("node:module");

const configured = new Set((process.env.SMCP_FETCH_HOSTS || "").split(" ").filter(Boolean));

function refused(what) {
  return Object.assign(new Error(`the fetch ${what}`), { code: "EPERM" });
}

for (const name of ["exec", "execFile", "execFileSync", "execSync", "fork", "spawn", "spawnSync"]) {
  child[name] = () => {
    throw refused(`starts no process (${name})`);
  };
}
child.ChildProcess.prototype.spawn = () => {
  throw refused("starts no process");
};
process.dlopen = () => {
  throw refused("loads no native code");
};

// IANA special-purpose registries (RFC 6890 and updates): what is not a public unicast address.
const closed = new net.BlockList();
for (const [subnet, bits] of [
  ["0.0.0.0", 8], ["10.0.0.0", 8], ["100.64.0.0", 10], ["127.0.0.0", 8], ["169.254.0.0", 16], ["172.16.0.0", 12],
  ["192.0.0.0", 24], ["192.0.2.0", 24], ["192.168.0.0", 16], ["198.18.0.0", 15], ["198.51.100.0", 24],
  ["203.0.113.0", 24], ["224.0.0.0", 4], ["240.0.0.0", 4],
]) {
  closed.addSubnet(subnet, bits, "ipv4");
}
// Global unicast only, and of it nothing that carries an IPv4 address or is for documentation.
const open = new net.BlockList();
open.addSubnet("2000::", 3, "ipv6");
for (const [subnet, bits] of [["2001::", 23], ["2001:db8::", 32], ["2002::", 16], ["3fff::", 20]]) {
  closed.addSubnet(subnet, bits, "ipv6");
}

function isPublic(address) {
  const family = net.isIP(address);
  if (family === 4) return !closed.check(address, "ipv4");
  return family === 6 && open.check(address, "ipv6") && !closed.check(address, "ipv6");
}

function checked(lookup) {
  return (host, options, callback) => {
    const done = callback || options;
    lookup(host, callback ? options : {}, (error, found, family) => {
      const addresses = Array.isArray(found) ? found.map((one) => one.address) : [found];
      if (!error && !addresses.every(isPublic)) {
        done(refused(`does not connect to ${host}, which is no public address`));
      } else {
        done(error, found, family);
      }
    });
  };
}

const connect = net.Socket.prototype.connect;
net.Socket.prototype.connect = function (...given) {
  const normal = Array.isArray(given[0]) ? given[0] : net._normalizeArgs(given);
  const options = normal[0];
  const host = (options.host || "localhost").replace(/^\[|\]$/g, "").toLowerCase();
  if (options.path || (net.isIP(host) && !configured.has(host) && !isPublic(host))) {
    throw refused(`does not connect to ${options.path || host}`);
  }
  if (!net.isIP(host) && !configured.has(host)) {
    normal[0] = { ...options, lookup: checked(options.lookup || dns.lookup) };
  }
  return connect.call(this, normal);
};

syncBuiltinESMExports();
