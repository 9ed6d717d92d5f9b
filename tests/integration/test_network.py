"""Who can reach a run: a local Ray listens on the loopback address alone."""

import ipaddress
import os

import psutil
import ray

from beear.cluster.connection import RaySession


def test_a_local_ray_listens_on_loopback_alone(session: RaySession) -> None:
    assert ray.get(ray.remote(num_cpus=0)(lambda: os.getpid()).remote()) != os.getpid()
    processes = psutil.Process().children(recursive=True)
    names = {process.name() for process in processes}
    assert {"gcs_server", "raylet"} <= names, names
    listening = {
        (process.name(), connection.laddr.ip)
        for process in (psutil.Process(), *processes)
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert len(listening) > 3
    addresses = {ip: ipaddress.ip_address(ip.removeprefix("::ffff:")) for _, ip in listening}
    assert {(name, ip) for name, ip in listening if not addresses[ip].is_loopback} == set()
    assert ray.util.get_node_ip_address() == "127.0.0.1"
