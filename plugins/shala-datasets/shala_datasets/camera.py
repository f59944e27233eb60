"""The camera that records the synthetic body, and Kinect's depth camera next to it.

Camera coordinates are those of Kinect v2: x to the right of the picture, y up, z away from the camera, in metres.
"""

import attrs
import numpy as np

from shala_datasets.body import FloatArray, rotation

DEPTH_FOCAL_PIXELS, DEPTH_CENTRE = 365.5, (256.0, 208.0)
"""Kinect v2's depth camera, 512x424. The values fit the depth coordinates of NTU files to within a few pixels."""

FOCAL_SHARE = 1.25
"""Focal length of the RGB camera relative to the picture's size: 2.4 m fill the picture at a distance of 3 m."""


@attrs.frozen(kw_only=True)
class Viewpoint:
    """Position of a person and direction of the camera.

    Attributes:
        yaw: Angle of the camera around the person, in degrees.
        pitch: Elevation of the camera, in degrees.
        position: Position of the body's middle in camera coordinates, in metres.
    """

    yaw: float
    pitch: float
    position: tuple[float, float, float]

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Viewpoint":
        """Draw a view within 30 degrees of the front, at 2.95 to 3.15 m."""
        x, y, z = rng.uniform((-0.08, -0.20, 2.95), (0.08, -0.13, 3.15))
        return cls(
            yaw=float(rng.uniform(-30, 30)), pitch=float(rng.uniform(-4, 8)), position=(float(x), float(y), float(z))
        )

    def to_camera(self, points: FloatArray, middle: float) -> FloatArray:
        """Convert points [..., 3] from body axes to camera coordinates.

        Args:
            points: Points in body axes, with the floor at y = 0.
            middle: Height of the body's middle, which is moved to `position`.
        """
        R_33 = (rotation(0, -self.pitch, 1) @ rotation(1, self.yaw, 1))[0]
        turned: FloatArray = (points - (0.0, middle, 0.0)) @ R_33.T
        return turned + self.position


def to_pixels(points: FloatArray, size: int) -> FloatArray:
    """Project camera points to columns and rows [..., 2] of an RGB picture of size x size."""
    return _project(points, focal=FOCAL_SHARE * size, centre=(0.5 * size, 0.5 * size))


def to_depth_pixels(points: FloatArray) -> FloatArray:
    """Project camera points to columns and rows [..., 2] of Kinect's depth picture."""
    return _project(points, focal=DEPTH_FOCAL_PIXELS, centre=DEPTH_CENTRE)


def _project(points: FloatArray, focal: float, centre: tuple[float, float]) -> FloatArray:
    scale = focal / points[..., 2:]
    return points[..., :2] * (1.0, -1.0) * scale + centre
