"""What several imaging commands share."""

FORMATS = ("npz", "nii.gz", "nii", "dcm", "png")


class Imaging:
    """What every verb of this domain is."""

    domain, pipeline = "imaging", "rectiflow_imaging.pipeline:ImagePipeline"
