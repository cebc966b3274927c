"""The shop, and what a load balancer asks."""

from django.urls import include, path

from . import views

urlpatterns = [path("orders", views.order), path("healthz/", include("eventbus.ext.django.urls"))]
