"""Cameras (LDM-151 4.1.2; design 5): definitions in YAML, header translation, raw readers."""

from skyquilt.instrument.camera import Amplifier, Camera, Detector
from skyquilt.instrument.camera_yaml import CameraError, load_camera
from skyquilt.instrument.observation_info import ObservationInfo, read_observation
from skyquilt.instrument.raw import RawFrame, read_raw

__all__ = [
    "Amplifier",
    "Camera",
    "CameraError",
    "Detector",
    "ObservationInfo",
    "RawFrame",
    "load_camera",
    "read_observation",
    "read_raw",
]
