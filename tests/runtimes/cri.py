# SPDX-License-Identifier: Apache-2.0
"""The Container Runtime Interface, as the kubelet speaks it: the few messages that a pod takes, by
their field numbers in k8s.io/cri-api/pkg/apis/runtime/v1/api.proto."""

import grpc

POD, CONTAINER, NODE = 0, 1, 2  # NamespaceMode: whose a namespace is


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out + bytes([number]))


def encode(message):
    """A message as {field number: value}: a number, text, a message, or a list of such."""
    out = b""
    for field, values in message.items():
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, int):
                out += varint(field << 3) + varint(value)
            else:
                data = encode(value) if isinstance(value, dict) else value.encode()
                out += varint(field << 3 | 2) + varint(len(data)) + data
    return out


def decode(data):
    """The last value of each field: a number or bytes."""
    at = 0

    def number():
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    message = {}
    while at < len(data):
        field, kind = divmod(number(), 8)
        value = number()
        assert kind in (0, 2), kind
        if kind == 2:
            value, at = data[at:at + value], at + value
        message[field] = value
    return message


def resources(cpus, memory_bytes, quota_us=50000, period_us=100000):
    """LinuxContainerResources."""
    return {1: period_us, 2: quota_us, 4: memory_bytes, 6: cpus}


class Kubelet:
    """What it asks of a runtime. `socket` is the runtime's."""

    def __init__(self, socket):
        self.channel = grpc.insecure_channel(f"unix://{socket}")

    def call(self, method, message):
        call = self.channel.unary_unary(f"/runtime.v1.RuntimeService/{method}",
                                        request_serializer=encode, response_deserializer=decode)
        return call(message, timeout=90)

    def run_pod(self, name, pid=CONTAINER):
        """Its id and its configuration. In the host's network, which takes no CNI plugin."""
        config = {1: {1: name, 2: f"{name}-uid", 3: "default", 4: 0},
                  8: {2: {1: {1: NODE, 2: pid}}}}
        return self.call("RunPodSandbox", {1: config})[1].decode(), config

    def start(self, pod, name, image, command, limits):
        pod_id, pod_config = pod
        config = {1: {1: name, 2: 0}, 2: {1: image}, 3: command,
                  15: {1: limits, 2: {3: pod_config[8][2][1]}}}  # the pod's namespaces
        container = self.call("CreateContainer", {1: pod_id, 2: config, 3: pod_config})[1].decode()
        self.call("StartContainer", {1: container})
        return container

    def exec(self, container, command):
        answer = self.call("ExecSync", {1: container, 2: command, 3: 60})
        assert answer.get(3, 0) == 0, answer
        return answer.get(1, b"").decode()

    def update(self, container, limits):
        self.call("UpdateContainerResources", {1: container, 2: limits})

    def remove(self, container):
        self.call("StopContainer", {1: container, 2: 0})
        self.call("RemoveContainer", {1: container})

    def remove_pod(self, pod):
        self.call("StopPodSandbox", {1: pod[0]})
        self.call("RemovePodSandbox", {1: pod[0]})
