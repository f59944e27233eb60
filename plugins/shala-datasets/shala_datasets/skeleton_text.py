"""Write joint positions as the text of an NTU `.skeleton` file.

Kinect's orientation quaternions are not generated. They are written as 0 0 0 0, as Kinect does for joints without one.
Metres have four decimals, pixels two.
"""

import numpy as np

from shala_datasets.body import NUM_JOINTS, FloatArray

_JOINT = "%.4f %.4f %.4f %.2f %.2f %.2f %.2f 0 0 0 0 2\n"


def skeleton_text(joints_TJ3: FloatArray, depth_TJ2: FloatArray, colour_TJ2: FloatArray, body_id: int) -> bytes:
    """Return one tracked body as NTU text.

    Args:
        joints_TJ3: Camera coordinates of the 25 joints, in metres.
        depth_TJ2: Columns and rows of the joints in the depth picture.
        colour_TJ2: Columns and rows of the joints in the RGB clip.
        body_id: Number of the body, the same in every frame.
    """
    body = f"1\n{body_id} 0 1 1 1 1 0 %.4f %.4f 2\n{NUM_JOINTS}\n{_JOINT * NUM_JOINTS}"
    # Kinect's lean ranges from -1 to 1, to the right and forwards, like the unit vector along the torso.
    torso_T3 = joints_TJ3[:, 20] - joints_TJ3[:, 0]
    torso_T3 = torso_T3 / np.linalg.norm(torso_T3, axis=1, keepdims=True)
    values = np.concatenate([joints_TJ3, depth_TJ2, colour_TJ2], axis=2).reshape(len(joints_TJ3), -1)
    rows = np.concatenate([torso_T3[:, :1], -torso_T3[:, 2:], values], axis=1)
    template = f"{len(joints_TJ3)}\n" + body * len(joints_TJ3)
    return (template % tuple(rows.ravel().tolist())).encode()
