"""Annotation page: a server and a web page on which a person segments the images of a folder."""
